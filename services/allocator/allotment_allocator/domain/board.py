"""What watchers see: the leases that are durable, with why they wait."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from allotment_allocator.domain.lease import Lease, LeaseState, Wait
from allotment_allocator.domain.staffing import Ended
from allotment_core.errors import ResourceExhausted
from allotment_core.names import LeaseName, TenantName

QUEUE_LIMIT = 20_000
"""Leases whose change a watcher has not taken yet. One division may grant thousands at once."""
ENDED_KEPT = 1000
_NOTHING: Mapping[LeaseName, Wait] = {}


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease as it is shown; no lease: the opening snapshot is complete."""

    lease: Lease | None
    wait: Wait | None = None


class Board:
    """Lives in one asyncio loop. Only durable changes are published to it."""

    def __init__(self) -> None:
        self._live: dict[LeaseName, Lease] = {}
        self._by_text: dict[str, Lease] = {}
        self._ended: OrderedDict[LeaseName, Ended] = OrderedDict()
        self._queue_waits: dict[LeaseName, Wait] = {}
        self._start_waits: dict[LeaseName, Wait] = {}
        self._watchers: set[_Watcher] = set()

    @property
    def live(self) -> Mapping[LeaseName, Lease]:
        return self._live

    @property
    def by_text(self) -> Mapping[str, Lease]:
        """The live ones by the texts of their names."""
        return self._by_text

    @property
    def ended(self) -> Mapping[LeaseName, Ended]:
        """The leases that ended last."""
        return self._ended

    def publish(self, leases: Iterable[Lease], now_s: float) -> None:
        """Shows durable changes."""
        for lease in leases:
            known = self._live.get(lease.name)
            late = known is None and lease.name in self._ended
            if late or (known is not None and known.revision >= lease.revision):
                continue
            if lease.ended:
                self._live.pop(lease.name, None)
                self._by_text.pop(str(lease.name), None)
                self._queue_waits.pop(lease.name, None)
                self._start_waits.pop(lease.name, None)
                self._ended[lease.name] = Ended(state=lease.state, epoch=lease.epoch, since_s=now_s)
                if len(self._ended) > ENDED_KEPT:
                    self._ended.popitem(last=False)
            else:
                self._live[lease.name] = self._by_text[str(lease.name)] = lease
            self._tell(lease)

    def explain_queue(self, waits: Mapping[LeaseName, Wait]) -> None:
        """Why queued leases wait now."""
        before, self._queue_waits = self._queue_waits, dict(waits)
        self._tell_changed(before, self._queue_waits)

    def explain_starts(self, waits: Mapping[LeaseName, Wait]) -> None:
        """Why leases that are granted or submitted have no trainer yet."""
        before, self._start_waits = self._start_waits, dict(waits)
        self._tell_changed(before, self._start_waits)

    def _tell_changed(
        self, before: Mapping[LeaseName, Wait], now: Mapping[LeaseName, Wait]
    ) -> None:
        for name in {**before, **now}:
            lease = self._live.get(name)
            if lease is None or self._waits_of(lease) is not now:
                continue
            if before.get(name) != now.get(name):
                self._tell(lease)

    def _waits_of(self, lease: Lease) -> Mapping[LeaseName, Wait]:
        """Where it says what this lease waits for."""
        if lease.state is LeaseState.HELD or lease.submitted:
            return self._start_waits
        return self._queue_waits if lease.state is LeaseState.QUEUED else _NOTHING

    def wait(self, lease: Lease) -> Wait | None:
        """Why this lease waits, if it does."""
        return self._waits_of(lease).get(lease.name)

    def _tell(self, lease: Lease) -> None:
        for watcher in self._watchers:
            if watcher.parent in (TenantName.WILDCARD, lease.tenant):
                watcher.add(lease, self.wait(lease))

    async def watch(self, parent: TenantName) -> AsyncIterator[Seen]:
        """Every live lease, a mark, then every change, for ever.

        A reader misses changes that newer ones of the same lease have replaced meanwhile.
        Raises: ResourceExhausted (SLOW_READER) when it is too far behind even so.
        """
        with self._subscribed(parent) as watcher:
            for lease in sorted(
                self._live.values(), key=lambda each: (each.create_time, each.name)
            ):
                if parent in (TenantName.WILDCARD, lease.tenant):
                    watcher.opening.append(Seen(lease, self.wait(lease)))
            for seen in (*watcher.opening, Seen(None)):
                yield seen
            while True:
                for seen in await watcher.take():
                    yield seen

    @contextmanager
    def _subscribed(self, parent: TenantName) -> Iterator["_Watcher"]:
        watcher = _Watcher(parent)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    """Changes that one reader has not taken yet: the newest of each lease. Bounded."""

    def __init__(self, parent: TenantName) -> None:
        self.parent = parent
        self.opening: list[Seen] = []
        self._changes: dict[LeaseName, Seen] = {}
        self._there = asyncio.Event()
        self._lost = False

    def add(self, lease: Lease, wait: Wait | None) -> None:
        if self._lost:
            return
        self._changes.pop(lease.name, None)
        self._changes[lease.name] = Seen(lease, wait)
        if len(self._changes) > QUEUE_LIMIT:
            self._changes.clear()
            self._lost = True
        self._there.set()

    async def take(self) -> Iterable[Seen]:
        await self._there.wait()
        self._there.clear()
        if self._lost:
            raise ResourceExhausted(
                f"this reader is behind with changes of more than {QUEUE_LIMIT:,} leases; watch "
                "again to get a fresh snapshot, and read faster",
                reason="SLOW_READER",
                retry_after_s=1.0,
            )
        changes, self._changes = self._changes, {}
        return changes.values()
