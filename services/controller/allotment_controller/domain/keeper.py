"""Keeps as many leases as the experiments want: asks, renews, releases.

The allocator's watch is the truth about leases; nothing of them is stored here. After a restart the
opening snapshot brings back those of living experiments, and the others are released.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from allotment_controller.domain.messages import LeaseView, Revoke
from allotment_controller.domain.ports import Leases
from allotment_controller.domain.seat import Seat, Seats
from allotment_controller.domain.task import Problem
from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError
from allotment_core.names import ExperimentName

log = logging.getLogger(__name__)

_TICK_S = 1.0
_SLOTS_EVERY_S = 30.0
_LONGEST_BACKOFF_S = 10.0
_RENEWALS = 6
"""Within a lease's time to live: it lasts five sixths of that at least once its controller is
gone."""
_CREATES_AT_ONCE = 32
"""Leases of one experiment that are asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperTimes:
    """Seconds. ``start_grace_s``: a trainer's time to connect; ``away_grace_s``: to come back."""

    lease_ttl_s: float
    start_grace_s: float
    away_grace_s: float


class LeaseKeeper:
    """One for all experiments."""

    def __init__(
        self,
        port: Leases,
        seats: Seats,
        clock: Clock,
        times: KeeperTimes,
    ) -> None:
        self._port = port
        self._seats = seats
        self._clock = clock
        self._times = times
        self.on_lease: Callable[[LeaseView], None] = lambda view: None
        """Hears of every change of a lease."""
        self._claims: set[ExperimentName] = set()
        self._wants: dict[ExperimentName, int] = {}
        self._leases: dict[str, LeaseView] = {}
        self._held_since: dict[str, tuple[int, float]] = {}
        """By lease: the epoch that is held, and since when."""
        self._creating: dict[ExperimentName, int] = {}
        self._releasing: set[str] = set()
        self._failures: dict[ExperimentName, int] = {}
        self._retry_at: dict[ExperimentName, float] = {}
        self._refusals: dict[ExperimentName, Problem] = {}
        self._wake = asyncio.Event()
        self._known = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.slot_count = 0
        """Slots of all pools; 0 until the allocator has said it."""
        self.answers = False
        """The allocator's watch is open and its snapshot is complete."""

    def claim(self, holder: ExperimentName) -> None:
        """An experiment is led, and what it wants is not known yet: its leases stay as they are."""
        self._claims.add(holder)

    def want(self, holder: ExperimentName, count: int) -> None:
        """How many leases an experiment should have from now on."""
        self._claims.discard(holder)
        if self._wants.get(holder) != count:
            self._wants[holder] = count
            self._wake.set()

    def forget(self, holder: ExperimentName) -> None:
        """The experiment has ended: all its leases are released."""
        self._claims.discard(holder)
        for state in (self._wants, self._failures, self._retry_at, self._refusals):
            state.pop(holder, None)
        self._wake.set()

    def poke(self) -> None:
        self._wake.set()

    def lease(self, name: str) -> LeaseView | None:
        return self._leases.get(name)

    def of(self, holder: ExperimentName) -> list[LeaseView]:
        return [v for v in self._leases.values() if v.holder == holder]

    def granted(self, holder: ExperimentName) -> datetime | None:
        """Since when an experiment holds a lease; None while it has none."""
        now = self._clock.now()
        held = (v for v in self.of(holder) if v.state in ("HELD", "REVOKING"))
        return min((v.grant_time or now for v in held), default=None)

    def refusal(self, holder: ExperimentName) -> Problem | None:
        """Why its last lease could not be asked for; None: it could."""
        return self._refusals.get(holder)

    def learn(self, view: LeaseView) -> None:
        """Takes over what is known of a lease."""
        known = self._leases.get(str(view.name))
        if known is not None and view.epoch < known.epoch:
            return
        if view.has_ended:
            self._leases.pop(str(view.name), None)
            self._held_since.pop(str(view.name), None)
            self._releasing.discard(str(view.name))
            if known is not None and view.problem is not None:
                self._back_off(view.holder)
        else:
            self._leases[str(view.name)] = view
        if view.state == "HELD" and self._held_since.get(str(view.name), (0, 0.0))[0] != view.epoch:
            self._held_since[str(view.name)] = (view.epoch, self._clock.monotonic())
        if view != known:
            self.on_lease(view)
            self._wake.set()

    def arrived(self, seat: Seat) -> None:
        """A trainer has connected."""
        self._failures.pop(seat.holder, None)
        self._retry_at.pop(seat.holder, None)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in (self._watch, self._renew, self._reconcile_all, self._count_slots):
                group.create_task(self._for_ever(loop))

    async def _for_ever(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """No experiment has trainers without these loops: one that breaks begins again."""
        while True:
            try:
                await loop()
            except Exception:
                log.exception("keeping of leases broke off")
                await asyncio.sleep(_TICK_S)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self) -> None:
        pause_s = 0.1
        while True:
            known_before = set(self._leases)
            try:
                async for view in self._port.watch():
                    if view is None:
                        self._drop(known_before)
                        self.answers, pause_s = True, 0.1
                        self._wake.set()
                        self._known.set()
                        continue
                    known_before.discard(str(view.name))
                    self.learn(view)
            except AllotmentError as e:
                log.warning("leases unwatched", extra={"reason": e.reason, "error": e.message})
            self.answers = False
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, 2 * pause_s)

    def _drop(self, gone: set[str]) -> None:
        for name in gone:
            view = self._leases.get(name)
            if view is not None:
                self.learn(replace(view, state="EXPIRED"))

    async def _count_slots(self) -> None:
        while True:
            try:
                self.slot_count = await self._port.slot_count()
            except AllotmentError as e:
                log.warning("pools unknown", extra={"reason": e.reason, "error": e.message})
            await asyncio.sleep(_SLOTS_EVERY_S if self.slot_count else 0.5)

    async def _renew(self) -> None:
        while True:
            # Also as soon as leases are known again: who was away finds them near their end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._times.lease_ttl_s / _RENEWALS):
                    await self._known.wait()
            self._known.clear()
            held = [v for v in self._leases.values() if v.state == "HELD" and self._keeps(v)]
            for start in range(0, len(held), 1000):
                await self._renew_some(held[start : start + 1000])

    async def _renew_some(self, held: list[LeaseView]) -> None:
        try:
            views = await self._port.renew(held)
        except AllotmentError as e:
            log.warning("leases not renewed", extra={"reason": e.reason, "error": e.message})
            return
        for was, view in zip(held, views, strict=True):
            if view is None:
                self.learn(replace(was, state="EXPIRED"))
            elif view.has_ended or view.epoch > was.epoch:
                self.learn(view)

    def _keeps(self, view: LeaseView) -> bool:
        """Whether its trainer is there, or may still come."""
        if view.holder not in self._wants and view.holder not in self._claims:
            return False
        now = self._clock.monotonic()
        seat = self._seats.get(str(view.name), view.epoch)
        if seat is None:
            _, since = self._held_since.get(str(view.name), (view.epoch, now))
            return now - since < self._times.start_grace_s
        if seat.leaving:
            return False
        return seat.away_since is None or now - seat.away_since < self._times.away_grace_s

    async def _reconcile_all(self) -> None:
        while True:
            self._wake.clear()
            if self.answers:
                for holder in {*self._wants, *(v.holder for v in self._leases.values())}:
                    self._reconcile(holder)
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _reconcile(self, holder: ExperimentName) -> None:
        if holder in self._claims:
            return
        live = []
        for view in self.of(holder):
            if not view.is_live or str(view.name) in self._releasing:
                continue
            if view.state == "HELD" and not self._keeps(view):
                self._back_off(holder)
                self._release(view)
            else:
                live.append(view)
        surplus = len(live) - self._wants.get(holder, 0)
        creating = self._creating.get(holder, 0)
        missing = min(-surplus, _CREATES_AT_ONCE) - creating
        if missing > 0 and self._clock.monotonic() >= self._retry_at.get(holder, 0.0):
            for _ in range(missing):
                self._creating[holder] = self._creating.get(holder, 0) + 1
                self._spawn(self._create(holder))
        elif surplus > 0:
            idle = [v for v in sorted(live, key=self._worth) if not self._is_busy(v)]
            for view in idle[:surplus]:
                self._release(view)

    def _worth(self, view: LeaseView) -> int:
        """What is released first: queued ones, then those without a trainer."""
        if view.state == "QUEUED":
            return 0
        return 2 if self._seats.get(str(view.name), view.epoch) else 1

    def _is_busy(self, view: LeaseView) -> bool:
        seat = self._seats.get(str(view.name), view.epoch)
        return seat is not None and seat.busy is not None and seat.line is not None

    async def _create(self, holder: ExperimentName) -> None:
        try:
            self.learn(await self._port.create(holder, uuid.uuid4().hex))
            self._refusals.pop(holder, None)
        except AllotmentError as e:
            self._back_off(holder)
            if holder in self._wants:
                self._refusals[holder] = Problem(e.reason, e.message)
            log.warning(
                "lease not created",
                extra={"experiment": str(holder), "reason": e.reason, "error": e.message},
            )
        finally:
            self._creating[holder] -= 1
            if not self._creating[holder]:
                del self._creating[holder]

    def _release(self, view: LeaseView) -> None:
        name = str(view.name)
        if name in self._releasing:
            return
        self._releasing.add(name)
        seat = self._seats.get(name, view.epoch)
        if seat is not None:
            seat.leaving = True
            seat.send(Revoke("RELEASED", 0.0))
        self._spawn(self._release_now(view))

    async def _release_now(self, view: LeaseView) -> None:
        try:
            released = await self._port.release(view.name, 0)
            self.learn(released or replace(view, state="RELEASED"))
        except AllotmentError as e:
            log.warning(
                "lease not released",
                extra={"lease": str(view.name), "reason": e.reason, "error": e.message},
            )
            await asyncio.sleep(_TICK_S)
        finally:
            self._releasing.discard(str(view.name))

    def _back_off(self, holder: ExperimentName) -> None:
        if holder not in self._wants:
            return
        failures = self._failures[holder] = self._failures.get(holder, 0) + 1
        pause_s = min(_LONGEST_BACKOFF_S, 0.1 * 2.0 ** min(failures, 10))
        self._retry_at[holder] = self._clock.monotonic() + pause_s

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
