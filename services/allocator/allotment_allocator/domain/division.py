"""Who gets slots now: a pure function of a snapshot.

Weighted fair share in slot-time among tenants, then among a tenant's experiments (least attained
service, as in Tiresias, Gu et al., NSDI 2019), with guarantees as a floor, quotas as a ceiling and
all-or-nothing grants. What keeps it calm: see `revocation`.
"""

from allotment_allocator.domain.revocation import revoke, shrink
from allotment_allocator.domain.snapshot import Claim, Decision, Snapshot
from allotment_allocator.domain.standing import Line, Standing
from allotment_allocator.domain.waits import explain


def decide(snapshot: Snapshot) -> Decision:
    """Grants, revocations and the reason of every wait. Deterministic; never more than the pool.

    Free slots stay free only where no waiting lease fits, or where a lease of several slots is
    next, has waited for `reserve_after_s`, and they are kept for it.
    """
    standing = Standing(snapshot)
    granted, waiting, reserved_for = _grant(standing)
    revocations = shrink(standing)
    if waiting:
        revocations += revoke(standing, waiting)
    waits = explain(Standing(snapshot), granted, waiting, revocations, reserved_for)
    return Decision(tuple(c.lease for c in granted), tuple(revocations), waits)


def _grant(standing: Standing) -> tuple[list[Claim], list[Claim], Claim | None]:
    """Granted claims, the rest, and the claim that free slots are kept for."""
    line = Line(standing, standing.snapshot.queued)
    granted: list[Claim] = []
    waiting: list[Claim] = []
    reserved_for: Claim | None = None
    while (claim := line.pop()) is not None:
        possible = _possible(standing, claim)
        if possible and reserved_for is None and claim.slot_count <= standing.free:
            standing.take(claim.holder, claim.slot_count)
            standing.free -= claim.slot_count
            granted.append(claim)
            continue
        waiting.append(claim)
        overdue = claim.waited_s >= standing.policy.reserve_after_s
        if possible and overdue and claim.slot_count > 1 and reserved_for is None:
            reserved_for = claim
    return granted, waiting, reserved_for


def _possible(standing: Standing, claim: Claim) -> bool:
    fits = claim.slot_count <= standing.snapshot.pool.slot_count
    return fits and standing.within_quota(claim)
