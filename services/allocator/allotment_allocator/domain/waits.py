"""Why a queued lease waits: the one reason that binds, what would end it, and its place."""

from collections.abc import Sequence

from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.snapshot import Claim, Revocation
from allotment_allocator.domain.standing import Line, Standing
from allotment_core.names import LeaseName

QUOTA = "QUOTA"
POOL_FULL = "POOL_FULL"
NO_POOL = "NO_POOL"


def explain(
    standing: Standing,
    granted: Sequence[Claim],
    waiting: Sequence[Claim],
    revocations: Sequence[Revocation],
    reserved_for: Claim | None,
) -> dict[LeaseName, Wait]:
    """A wait for each waiting claim; places count from 1 in the order of service."""
    for claim in granted:
        standing.take(claim.holder, claim.slot_count)
        standing.free -= claim.slot_count
    freed_for = {r.claim for r in revocations}
    ahead = standing.copy()
    line = Line(ahead, tuple(waiting))
    waits: dict[LeaseName, Wait] = {}
    while (following := line.pop()) is not None:
        ahead.take(following.holder, following.slot_count)
        position = len(waits) + 1
        waits[following.lease] = (
            _never(standing, following, position)
            or _quota(standing, following, position)
            or _full(standing, following, position, following.lease in freed_for, reserved_for)
        )
    return waits


def _never(standing: Standing, claim: Claim, position: int) -> Wait | None:
    pool = standing.snapshot.pool
    if claim.slot_count <= pool.slot_count:
        return None
    return Wait(
        NO_POOL,
        f"no pool has {_slots(claim.slot_count)} on one machine ({pool.name} has "
        f"{pool.slot_count}); release this lease and ask for fewer, "
        "or start the allocator with more",
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


def _full(
    standing: Standing, claim: Claim, position: int, freed: bool, reserved_for: Claim | None
) -> Wait:
    pool = standing.snapshot.pool
    free = max(0, standing.free)
    if freed:
        end = "slots are being taken back for it"
    elif standing.snapshot.leaving_slots:
        end = "a trainer whose lease has ended is on its way out"
    elif reserved_for is not None and reserved_for.lease != claim.lease and free:
        end = f"free ones are kept for {reserved_for.lease}, which needs {reserved_for.slot_count}"
    else:
        end = "it goes on when leases before it end, or with a larger pool"
    return Wait(
        POOL_FULL,
        f"it needs {_slots(claim.slot_count)} and {free} of {pool.slot_count} in {pool.name} "
        f"are free; {end}",
        position,
    )


def _slots(count: int) -> str:
    return f"{count} slot" if count == 1 else f"{count} slots"
