"""Who gets slots now: a pure function of a snapshot.

Weighted fair share in slot-time among tenants, then among a tenant's experiments (least attained
service, as in Tiresias, Gu et al., NSDI 2019), with guarantees as a floor, quotas as a ceiling and
all-or-nothing grants. What keeps it calm: see `revocation`.
"""

from allotment_allocator.domain.pool import Place
from allotment_allocator.domain.revocation import relocate, revoke, shrink
from allotment_allocator.domain.snapshot import Claim, Decision, Snapshot
from allotment_allocator.domain.standing import Line, Standing
from allotment_allocator.domain.waits import explain


def decide(snapshot: Snapshot) -> Decision:
    """Grants, revocations and the reason of every wait. Deterministic; never more than a node has.

    Free slots stay free only where no waiting lease fits, or where a lease of several slots is
    next, has waited for `reserve_after_s`, and a node is kept for it.
    """
    standing = Standing(snapshot)
    moves = relocate(standing)
    granted, waiting = _grant(standing)
    revocations = shrink(standing, moves)
    if waiting:
        revocations += revoke(standing, waiting)
    waits = explain(snapshot, granted, waiting, revocations, standing.room) if waiting else {}
    grants = {claim.lease: place for claim, place in granted}
    return Decision(grants, moves, tuple(revocations), waits)


def _grant(standing: Standing) -> tuple[list[tuple[Claim, Place]], list[Claim]]:
    """Granted claims with their nodes, and the rest."""
    queued, reserve_after_s = standing.snapshot.queued, standing.policy.reserve_after_s
    line = Line(standing, queued)
    granted: list[tuple[Claim, Place]] = []
    waiting: list[Claim] = []
    hopeful = {(claim.wanted, claim.slot_count) for claim in queued}
    gangs = sum(c.slot_count > 1 and c.waited_s >= reserve_after_s for c in queued)
    while (hopeful or gangs) and (claim := line.pop()) is not None:
        possible = standing.within_quota(claim)
        kind = (claim.wanted, claim.slot_count)
        overdue = claim.slot_count > 1 and claim.waited_s >= reserve_after_s
        gangs -= overdue
        if possible and kind in hopeful:
            place = standing.room.best(claim.wanted, claim.slot_count)
            if place is not None:
                standing.take(claim.holder, claim.slot_count)
                standing.room.take(place, claim.slot_count)
                granted.append((claim, place))
                continue
            hopeful.discard(kind)
        waiting.append(claim)
        if possible and overdue:
            standing.room.reserve(claim)
    # Nothing that is left can be granted, or have a node kept for it, in whatever order.
    return granted, [*waiting, *line.rest()]
