"""Which leases are taken back for which waiting ones.

Three rules, each with its bound, so that no two leases take slots from each other without an
arrival or a departure:

- GUARANTEE: a claim within its tenant's guarantee takes from a tenant above its own. Slots within a
  guarantee are never taken, so that this ends after as many changes as there are guaranteed slots.
- FAIR_SHARE: only where the former holder still has at least as many slots per weight as the new
  one after the change. Each change makes the sorted list of shares lexicographically greater
  (leximin), so that it ends.
- TURN_OVER: where there are more who want slots than slots, sharing has to be in time. A lease is
  asked to leave after a full turn at least, for somebody who has had a whole turn less. It is
  bounded in rate: one change for each slot and turn.

Whoever loses a lease has lost it because somebody else stands before it in the line, so that the
slots do not come straight back. The victim is whose holder has most, then who has run shortest:
that loses least work.
"""

from collections.abc import Sequence

from allotment_allocator.domain.snapshot import (
    Claim,
    Holding,
    Revocation,
    RevocationReason,
)
from allotment_allocator.domain.standing import Line, Standing
from allotment_core.names import ExperimentName


def shrink(standing: Standing) -> list[Revocation]:
    """Leases beyond the pool's slots: what remains of a larger pool."""
    held = [h for h in standing.snapshot.held if not h.revoking]
    excess = -standing.free - sum(h.slot_count for h in standing.snapshot.held if h.revoking)
    excess -= standing.snapshot.leaving_slots
    revocations = []
    while excess > 0 and held:
        victim = min(held, key=lambda h: _victim_rank(standing, h))
        held.remove(victim)
        standing.take(victim.holder, -victim.slot_count)
        excess -= victim.slot_count
        revocations.append(Revocation(victim.lease, RevocationReason.POOL_SHRANK, None))
    return revocations


def revoke(standing: Standing, waiting: Sequence[Claim]) -> list[Revocation]:
    """Leases to take back so that waiting claims, in their order, can have the slots."""
    policy = standing.policy
    candidates = [
        h for h in standing.snapshot.held if not h.revoking and h.held_s >= policy.minimum_runtime_s
    ]
    coming = standing.snapshot.leaving_slots + standing.free
    coming += sum(h.slot_count for h in standing.snapshot.held if h.revoking)
    # A lease that is being taken back holds nothing that its holder could be envied for.
    for holding in standing.snapshot.held:
        if holding.revoking:
            standing.take(holding.holder, -holding.slot_count)
    revocations: list[Revocation] = []
    line = Line(standing, tuple(waiting))
    in_vain: set[tuple[ExperimentName, int]] = set()
    while candidates and (claim := line.pop()) is not None:
        if claim.slot_count > standing.snapshot.pool.slot_count:
            continue
        if not standing.within_quota(claim):
            continue
        needed = claim.slot_count - max(0, coming)
        if needed > 0 and (claim.holder, claim.slot_count) in in_vain:
            continue
        found = _victims(standing, claim, candidates, needed)
        if found is None:
            in_vain.add((claim.holder, claim.slot_count))
            continue
        for victim, reason in found:
            candidates.remove(victim)
            standing.take(victim.holder, -victim.slot_count)
            coming += victim.slot_count
            revocations.append(Revocation(victim.lease, reason, claim.lease))
        coming -= claim.slot_count
        standing.take(claim.holder, claim.slot_count)
    return revocations


def _victims(
    standing: Standing, claim: Claim, candidates: Sequence[Holding], needed: int
) -> list[tuple[Holding, RevocationReason]] | None:
    """Who makes room for the claim; none where room comes anyway; None: nobody may be asked."""
    found: list[tuple[Holding, RevocationReason]] = []
    if needed <= 0:
        return found
    trial = standing.copy()
    left = list(candidates)
    while needed > 0:
        allowed = [(h, reason) for h in left if (reason := _rule(trial, claim, h)) is not None]
        if not allowed:
            return None
        victim, reason = min(
            allowed, key=lambda pair: (pair[0].slot_count > needed, *_victim_rank(trial, pair[0]))
        )
        left.remove(victim)
        trial.take(victim.holder, -victim.slot_count)
        needed -= victim.slot_count
        found.append((victim, reason))
    return found


def _victim_rank(standing: Standing, holding: Holding) -> tuple[float, float, float, object]:
    return (
        -standing.tenant_level(holding.lease.tenant),
        -standing.experiment_level(holding.holder),
        holding.held_s,
        holding.lease,
    )


def _rule(standing: Standing, claim: Claim, holding: Holding) -> RevocationReason | None:
    """The rule by which the claim may take this lease's slots."""
    if claim.holder == holding.holder:
        return None
    winner, loser = claim.lease.tenant, holding.lease.tenant
    if winner == loser:
        return _fairer(
            standing,
            holding,
            winner_slots=standing.of_experiment[claim.holder] + claim.slot_count,
            loser_slots=standing.of_experiment[holding.holder],
            winner_level=standing.experiment_level(claim.holder, claim.slot_count),
            loser_level=standing.experiment_level(holding.holder),
            turn_level=standing.policy.turn_s * claim.slot_count,
        )
    guaranteed = standing.terms(loser).guaranteed_slots
    if standing.within_guarantee(claim) and standing.of_tenant[loser] > guaranteed:
        return RevocationReason.GUARANTEE
    if standing.of_tenant[loser] - holding.slot_count < guaranteed:
        return None
    winner_weight, loser_weight = standing.terms(winner).weight, standing.terms(loser).weight
    return _fairer(
        standing,
        holding,
        winner_slots=(standing.of_tenant[winner] + claim.slot_count) / winner_weight,
        loser_slots=standing.of_tenant[loser] / loser_weight,
        lost_slots=holding.slot_count / loser_weight,
        winner_level=standing.tenant_level(winner, claim.slot_count),
        loser_level=standing.tenant_level(loser),
        turn_level=standing.policy.turn_s * claim.slot_count / winner_weight,
    )


def _fairer(
    standing: Standing,
    holding: Holding,
    *,
    winner_slots: float,
    loser_slots: float,
    winner_level: float,
    loser_level: float,
    turn_level: float,
    lost_slots: float | None = None,
) -> RevocationReason | None:
    """Compares two tenants, or two experiments of one: slots and levels are per weight.

    The winner's are those with the claim granted, the loser's those before its loss.
    """
    lost = float(holding.slot_count) if lost_slots is None else lost_slots
    if loser_slots - lost >= winner_slots and winner_level < loser_level:
        return RevocationReason.FAIR_SHARE
    over = holding.held_s >= standing.policy.turn_s
    if over and winner_level + turn_level <= loser_level:
        return RevocationReason.TURN_OVER
    return None
