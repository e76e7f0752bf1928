"""Why a queued lease waits: the one reason that binds, what would end it, and its place."""

from collections.abc import Sequence

from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.pool import Place, describe
from allotment_allocator.domain.room import Room
from allotment_allocator.domain.snapshot import Claim, Revocation, Snapshot
from allotment_allocator.domain.standing import Line, Standing
from allotment_core.names import LeaseName

QUOTA = "QUOTA"
POOL_FULL = "POOL_FULL"
NO_POOL = "NO_POOL"


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
    standing = Standing(snapshot)
    for claim, _ in granted:
        standing.take(claim.holder, claim.slot_count)
    freed_for = {r.claim for r in revocations}
    ahead = standing.copy()
    line = Line(ahead, tuple(waiting))
    waits: dict[LeaseName, Wait] = {}
    while (following := line.pop()) is not None:
        ahead.take(following.holder, following.slot_count)
        position = len(waits) + 1
        waits[following.lease] = (
            _never(room, following, position)
            or _quota(standing, following, position)
            or _full(room, following, position, freed=following.lease in freed_for)
        )
    return waits


def _never(room: Room, claim: Claim, position: int) -> Wait | None:
    largest = room.largest(claim.wanted)
    if claim.slot_count <= largest:
        return None
    return Wait(
        NO_POOL,
        f"no node has {_slots(claim.slot_count)} of {describe(claim.wanted)} (the largest has "
        f"{largest}); release this lease and ask for fewer, or add a larger node",
        position,
    )


def _quota(standing: Standing, claim: Claim, position: int) -> Wait | None:
    if standing.within_quota(claim):
        return None
    tenant = claim.lease.tenant
    return Wait(
        QUOTA,
        f"{tenant} holds {standing.of_tenant[tenant]} of the {standing.terms(tenant).quota_slots} "
        f"slots that its quota allows and this lease needs {claim.slot_count} more; "
        "it goes on when one of its leases ends, or with a higher quota",
        position,
    )


def _full(room: Room, claim: Claim, position: int, *, freed: bool) -> Wait:
    pools = room.suitable(claim.wanted)
    free = room.free_slots(claim.wanted)
    kept_for = room.reserved_for(claim.wanted)
    if freed:
        end = "slots are being taken back for it"
    elif any(place.pool in {p.name for p in pools} and n for place, n in room.leaving.items()):
        end = "a trainer whose lease has ended is on its way out"
    elif kept_for is not None and kept_for.lease != claim.lease:
        end = f"free ones are kept for {kept_for.lease}, which needs {kept_for.slot_count}"
    else:
        end = "it goes on when leases before it end, or with a larger pool"
    where = ", ".join(str(pool.name) for pool in pools)
    together = " on one node" if 0 < claim.slot_count <= free else ""
    return Wait(
        POOL_FULL,
        f"it needs {_slots(claim.slot_count)}{together} and {free} of "
        f"{sum(pool.slot_count for pool in pools)} in {where} are free; {end}",
        position,
    )


def _slots(count: int) -> str:
    return f"{count} slot" if count == 1 else f"{count} slots"
