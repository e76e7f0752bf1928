"""Why a queued lease waits: the one reason that binds, what would end it, and its place."""

from collections.abc import Container, Sequence

from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.pool import Place, Wanted, describe
from allotment_allocator.domain.room import Room
from allotment_allocator.domain.snapshot import Claim, Revocation, Snapshot
from allotment_allocator.domain.standing import Line, Standing
from allotment_core.names import LeaseName

QUOTA = "QUOTA"
POOL_FULL = "POOL_FULL"
NO_POOL = "NO_POOL"
DIVIDING = "DIVIDING"
"""Of a lease that no division has seen yet."""


def explain(
    snapshot: Snapshot,
    granted: Sequence[tuple[Claim, Place]],
    waiting: Sequence[Claim],
    revocations: Sequence[Revocation],
    room: Room,
) -> dict[LeaseName, Wait]:
    """A wait for each waiting claim; places in the queue count from 1 in the order of service.

    `room` is that after the division.
    """
    standing = Standing(snapshot, room)
    for claim, _ in granted:
        standing.take(claim.holder, claim.slot_count)
    shortage = _Shortage(room, {r.claim for r in revocations})
    ahead = standing.copy()
    line = Line(ahead, tuple(waiting))
    waits: dict[LeaseName, Wait] = {}
    while (following := line.pop()) is not None:
        ahead.take(following.holder, following.slot_count)
        if shortage.is_lasting(following):
            reason, text = NO_POOL, shortage.never(following)
        elif not standing.within_quota(following):
            reason, text = QUOTA, _quota(standing, following)
        else:
            reason, text = POOL_FULL, shortage.now(following)
        waits[following.lease] = Wait(reason, text, len(waits) + 1)
    return waits


def _quota(standing: Standing, claim: Claim) -> str:
    tenant = claim.lease.tenant
    return (
        f"{tenant} holds {standing.of_tenant[tenant]} of the {standing.terms(tenant).quota_slots} "
        f"slots that its quota allows and this lease needs {claim.slot_count} more; "
        "it goes on when one of its leases ends, or with a higher quota"
    )


class _Shortage:
    """What the pools lack. Claims that want the same are told the same: thousands may wait."""

    def __init__(self, room: Room, freed_for: Container[LeaseName | None]) -> None:
        self._room = room
        self._freed_for = freed_for
        self._largest: dict[Wanted, int] = {}
        self._kept_for: dict[Wanted, Claim | None] = {}
        self._texts: dict[tuple[Wanted, int, bool, bool], str] = {}

    def is_lasting(self, claim: Claim) -> bool:
        """Whether no node is large enough."""
        wanted = claim.wanted
        if wanted not in self._largest:
            self._largest[wanted] = self._room.largest(wanted)
            self._kept_for[wanted] = self._room.reserved_for(wanted)
        return claim.slot_count > self._largest[wanted]

    def never(self, claim: Claim) -> str:
        return (
            f"no node has {_slots(claim.slot_count)} of {describe(claim.wanted)} (the largest has "
            f"{self._largest[claim.wanted]}); release this lease and ask for fewer, or add a "
            "larger node"
        )

    def now(self, claim: Claim) -> str:
        freed = claim.lease in self._freed_for
        kept_for = self._kept_for[claim.wanted]
        if kept_for is not None and kept_for.lease == claim.lease:
            kept_for = None
        kind = (claim.wanted, claim.slot_count, freed, kept_for is None)
        text = self._texts.get(kind)
        if text is None:
            text = self._texts[kind] = self._full(claim, kept_for, freed=freed)
        return text

    def _full(self, claim: Claim, kept_for: Claim | None, *, freed: bool) -> str:
        room = self._room
        pools = room.suitable(claim.wanted)
        free = room.free_slots(claim.wanted)
        if freed:
            end = "slots are being taken back for it"
        elif any(place.pool in {p.name for p in pools} and n for place, n in room.leaving.items()):
            end = "a trainer whose lease has ended is on its way out"
        elif kept_for is not None:
            end = f"free ones are kept for {kept_for.lease}, which needs {kept_for.slot_count}"
        else:
            end = "it goes on when leases before it end, or with a larger pool"
        where = ", ".join(str(pool.name) for pool in pools)
        together = " on one node" if 0 < claim.slot_count <= free else ""
        return (
            f"it needs {_slots(claim.slot_count)}{together} and {free} of "
            f"{sum(pool.slot_count for pool in pools)} in {where} are free; {end}"
        )


def _slots(count: int) -> str:
    return f"{count} slot" if count == 1 else f"{count} slots"
