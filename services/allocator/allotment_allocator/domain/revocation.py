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

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from allotment_allocator.domain.pool import ANYWHERE, NodeState, Place, Wanted
from allotment_allocator.domain.snapshot import (
    Claim,
    Holding,
    Revocation,
    RevocationReason,
)
from allotment_allocator.domain.standing import Line, Standing
from allotment_core.names import ExperimentName, LeaseName, PoolName

_Kind = tuple[ExperimentName, Wanted, int]
_Likeness = tuple[PoolName, ExperimentName, bool]
"""Pool, holder, and whether a turn is over: rules don't tell leases of one slot further apart."""
_Rank = tuple[float, float, float, LeaseName]
_Found = list[tuple[Holding, RevocationReason]]
_TakeBack = Callable[[Holding, RevocationReason], None]


def relocate(standing: Standing) -> dict[LeaseName, Place]:
    """Where leases of lost nodes go on, as far as there is room for them."""
    room = standing.room
    moves: dict[LeaseName, Place] = {}
    for holding in standing.snapshot.held:
        lost = room.states.get(holding.place, NodeState.LOST) is NodeState.LOST
        if lost and not holding.revoking and not holding.by_queue:
            place = room.best(holding.wanted, holding.slot_count)
            if place is not None:
                room.take(place, holding.slot_count)
                moves[holding.lease] = place
    return moves


def shrink(standing: Standing, moved: Collection[LeaseName]) -> list[Revocation]:
    """Leases that their nodes have no slots for any more: lost, smaller, or cordoned ones."""
    room = standing.room
    revocations: list[Revocation] = []
    held: dict[Place, list[Holding]] = {}
    for holding in standing.snapshot.held:
        if not holding.revoking and holding.lease not in moved and holding.place.node != ANYWHERE:
            held.setdefault(holding.place, []).append(holding)

    def take_back(victim: Holding, reason: RevocationReason) -> None:
        held[victim.place].remove(victim)
        standing.take(victim.holder, -victim.slot_count)
        room.coming[victim.place] += victim.slot_count
        revocations.append(Revocation(victim.lease, reason, None))

    short = [
        place
        for place in held
        if room.states.get(place) is not NodeState.OPEN or room.free(place) + room.coming[place] < 0
    ]
    for place in sorted(short):
        state = room.states.get(place, NodeState.LOST)
        while held[place] and state is NodeState.LOST:
            take_back(held[place][0], RevocationReason.NODE_LOST)
        while held[place] and room.free(place) + room.coming[place] < 0:
            victim = min(held[place], key=lambda h: _victim_rank(standing, h))
            take_back(victim, RevocationReason.POOL_SHRANK)
        if state is NodeState.CORDONED:
            _drain(standing, held[place], take_back)
    return revocations


def _drain(standing: Standing, holdings: Sequence[Holding], take_back: _TakeBack) -> None:
    """Asks leases to leave a cordoned node, as many as there is room for on other nodes."""
    room = standing.room
    for holding in sorted(holdings, key=lambda h: _victim_rank(standing, h)):
        place = room.best(holding.wanted, holding.slot_count)
        if place is not None:
            room.take(place, holding.slot_count)
            take_back(holding, RevocationReason.NODE_DRAINED)


def revoke(standing: Standing, waiting: Sequence[Claim]) -> list[Revocation]:
    """Leases to take back so that waiting claims, in their order, can have the slots."""
    candidates = _Candidates(standing)
    # A lease that is being taken back holds nothing that its holder could be envied for.
    for holding in standing.snapshot.held:
        if holding.revoking:
            standing.take(holding.holder, -holding.slot_count)
    revocations: list[Revocation] = []
    coming = _Coming(standing)
    line = Line(standing, tuple(waiting))
    # Kinds of claims: those that are still worth a try, and those that found nobody to ask.
    hopeful = {_kind(claim) for claim in waiting}
    in_vain: set[_Kind] = set()
    while hopeful and candidates and (claim := line.pop()) is not None:
        if not standing.within_quota(claim):
            continue
        place = coming.place_for(claim)
        found: _Found = []
        if place is None:
            kind = _kind(claim)
            best = None if kind in in_vain else _best_victims(standing, claim, candidates, coming)
            if best is None:
                in_vain.add(kind)
                hopeful.discard(kind)
                continue
            place, found = best
        for victim, reason in found:
            candidates.remove(victim)
            standing.take(victim.holder, -victim.slot_count)
            revocations.append(Revocation(victim.lease, reason, claim.lease))
        freed = sum(victim.slot_count for victim, _ in found)
        if coming.add(place, freed - claim.slot_count):
            hopeful |= in_vain
        standing.take(claim.holder, claim.slot_count)
    return revocations


def _kind(claim: Claim) -> _Kind:
    """Claims of one kind are alike to all rules."""
    return claim.holder, claim.wanted, claim.slot_count


class _Coming:
    """Slots of each open node that are free, or will be without anything being done."""

    def __init__(self, standing: Standing) -> None:
        self._room = standing.room
        self.slots: Counter[Place] = Counter()
        self._passed: dict[tuple[Wanted, int], int] = {}
        """Nodes that are known to have too few, by what is asked for: they are not looked at."""
        for place, state in self._room.states.items():
            if state is NodeState.OPEN:
                self.slots[place] = self._room.free(place) + self._room.coming[place]

    def place_for(self, claim: Claim) -> Place | None:
        kind = (claim.wanted, claim.slot_count)
        there, expected = self._room.open_places(claim.wanted)
        for index in range(self._passed.get(kind, 0), len(there) + len(expected)):
            place = there[index] if index < len(there) else expected[index - len(there)]
            if self.slots[place] >= claim.slot_count:
                self._passed[kind] = index
                return place
        self._passed[kind] = len(there) + len(expected)
        return None

    def add(self, place: Place, slot_count: int) -> bool:
        """Whether there are more than before."""
        self.slots[place] += slot_count
        if slot_count > 0:
            self._passed.clear()
        return slot_count > 0


class _Candidates:
    """Leases that may be taken back, in the order in which they are thought of."""

    def __init__(self, standing: Standing) -> None:
        self.by_place: dict[Place, dict[LeaseName, Holding]] = {}
        self._singles: dict[_Likeness, list[tuple[float, LeaseName, Holding]]] = {}
        self._gangs = 0
        self._turn_s = standing.policy.turn_s
        room, least_s = standing.room, standing.policy.minimum_runtime_s
        for holding in standing.snapshot.held:
            place = holding.place
            if (
                not holding.revoking
                and holding.held_s >= least_s
                and room.states.get(place) is NodeState.OPEN
                and place not in room.expected
            ):
                self.by_place.setdefault(place, {})[holding.lease] = holding
                if holding.slot_count == 1:
                    alike = (place.pool, holding.holder, holding.held_s >= self._turn_s)
                    ranked = (holding.held_s, holding.lease, holding)
                    self._singles.setdefault(alike, []).append(ranked)
                else:
                    self._gangs += 1
        for holdings in self._singles.values():
            holdings.sort(key=_shortest_first, reverse=True)
        self._count = sum(map(len, self.by_place.values()))

    def __bool__(self) -> bool:
        return self._count > 0

    @property
    def gangs(self) -> bool:
        """Whether one has several slots."""
        return self._gangs > 0

    def remove(self, holding: Holding) -> None:
        del self.by_place[holding.place][holding.lease]
        self._count -= 1
        self._gangs -= holding.slot_count > 1

    def singles(self, pools: Collection[PoolName]) -> Iterator[Holding]:
        """Of leases of one slot that the rules can't tell apart, the one that has run shortest."""
        for (pool, _, _), holdings in self._singles.items():
            if pool not in pools:
                continue
            while holdings and holdings[-1][1] not in self.by_place[holdings[-1][2].place]:
                holdings.pop()
            if holdings:
                yield holdings[-1][2]


def _shortest_first(ranked: tuple[float, LeaseName, Holding]) -> tuple[float, LeaseName]:
    return ranked[:2]


def _best_victims(
    standing: Standing, claim: Claim, candidates: _Candidates, coming: _Coming
) -> tuple[Place, _Found] | None:
    """The node on which room for the claim costs least, and who makes it. None: nobody may be
    asked."""
    if claim.slot_count == 1 and not claim.wanted.node:
        single = _best_single(standing, claim, candidates)
        if single is not None or not candidates.gangs:
            return single
    there, _ = standing.room.open_places(claim.wanted)
    best: tuple[tuple[int, _Rank], Place, _Found] | None = None
    for place in there:
        on_node = candidates.by_place.get(place)
        needed = claim.slot_count - max(0, coming.slots[place])
        if not on_node or sum(h.slot_count for h in on_node.values()) < needed:
            continue
        found = _victims(standing, claim, on_node.values(), needed)
        if found is None:
            continue
        lost = sum(victim.slot_count for victim, _ in found)
        cost = (max(0, lost - needed), _victim_rank(standing, found[0][0]))
        if best is None or cost < best[0]:
            best = cost, place, found
    return None if best is None else (best[1], best[2])


def _best_single(
    standing: Standing, claim: Claim, candidates: _Candidates
) -> tuple[Place, _Found] | None:
    """Among leases of one slot: none of them frees more than the claim of one slot needs."""
    pools = {pool.name for pool in standing.room.suitable(claim.wanted)}
    best: tuple[_Rank, Place, _Found] | None = None
    for holding in candidates.singles(pools):
        rank = _victim_rank(standing, holding)
        if best is None or rank < best[0]:
            reason = _rule(standing, claim, holding)
            if reason is not None:
                best = rank, holding.place, [(holding, reason)]
    return None if best is None else (best[1], best[2])


def _victims(
    standing: Standing, claim: Claim, candidates: Iterable[Holding], needed: int
) -> _Found | None:
    """Who of a node makes room for the claim; None: nobody may be asked."""
    found: _Found = []
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


def _victim_rank(standing: Standing, holding: Holding) -> _Rank:
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
