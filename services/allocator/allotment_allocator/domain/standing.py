"""The state of one division while it is being made: who holds what, and who is next."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from datetime import datetime

from allotment_allocator.domain.room import Room
from allotment_allocator.domain.snapshot import Claim, Snapshot
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import ExperimentName, LeaseName, TenantName

_NO_TERMS = Terms()
_Rank = tuple[bool, float, datetime, LeaseName]


class Standing:
    """Counts of slots that grants and revocations change as they are decided."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.policy = snapshot.policy
        self.of_tenant: Counter[TenantName] = Counter()
        self.of_experiment: Counter[ExperimentName] = Counter()
        self.changes: Counter[TenantName] = Counter()
        """How often a tenant's counts have changed."""
        for holding in snapshot.held:
            self.take(holding.holder, holding.slot_count)
        self.room = Room(snapshot)

    def copy(self) -> "Standing":
        """With counts of its own; the room is shared."""
        twin = Standing.__new__(Standing)
        twin.snapshot, twin.policy, twin.room = self.snapshot, self.policy, self.room
        twin.changes = self.changes.copy()
        twin.of_tenant, twin.of_experiment = self.of_tenant.copy(), self.of_experiment.copy()
        return twin

    def take(self, holder: ExperimentName, slot_count: int) -> None:
        """The holder gets slots (or loses them: a negative count)."""
        self.changes[holder.tenant] += 1
        self.of_tenant[holder.tenant] += slot_count
        self.of_experiment[holder] += slot_count

    def terms(self, tenant: TenantName) -> Terms:
        return self.snapshot.terms.get(tenant, _NO_TERMS)

    def within_quota(self, claim: Claim) -> bool:
        quota = self.terms(claim.lease.tenant).quota_slots
        return not quota or self.of_tenant[claim.lease.tenant] + claim.slot_count <= quota

    def within_guarantee(self, claim: Claim) -> bool:
        tenant = claim.lease.tenant
        return self.of_tenant[tenant] + claim.slot_count <= self.terms(tenant).guaranteed_slots

    def tenant_level(self, tenant: TenantName, more_slots: int = 0) -> float:
        """Attained slot-time per weight if it held so many more slots; who has least is next."""
        return self._level(tenant, self.of_tenant[tenant] + more_slots) / self.terms(tenant).weight

    def experiment_level(self, experiment: ExperimentName, more_slots: int = 0) -> float:
        """The same among the experiments of one tenant."""
        return self._level(experiment, self.of_experiment[experiment] + more_slots)

    def _level(self, who: TenantName | ExperimentName, slots: int) -> float:
        return self.snapshot.attained.get(who, 0.0) + self.policy.horizon_s * slots


class Line:
    """Claims in the order in which they are served, given what has been taken so far."""

    def __init__(self, standing: Standing, claims: Iterator[Claim] | tuple[Claim, ...]) -> None:
        self._standing = standing
        self._queues: dict[TenantName, dict[ExperimentName, deque[Claim]]] = defaultdict(dict)
        for claim in sorted(claims, key=lambda c: (c.create_time, c.lease)):
            queues = self._queues[claim.lease.tenant]
            queues.setdefault(claim.holder, deque()).append(claim)
        self._firsts: dict[TenantName, tuple[int, tuple[_Rank, Claim]]] = {}

    def pop(self) -> Claim | None:
        """The next claim: within guarantees first, then least slot-time of tenant, experiment."""
        best = min((self._first(tenant) for tenant in self._queues), default=None, key=_by_rank)
        if best is None:
            return None
        claim = best[1]
        tenant, queues = claim.lease.tenant, self._queues[claim.lease.tenant]
        queues[claim.holder].popleft()
        if not queues[claim.holder]:
            del queues[claim.holder]
        if not queues:
            del self._queues[tenant]
        self._firsts.pop(tenant, None)
        return claim

    def _first(self, tenant: TenantName) -> tuple[_Rank, Claim]:
        """The tenant's best claim; found again only when something of the tenant has changed."""
        changes = self._standing.changes[tenant]
        known = self._firsts.get(tenant)
        if known is None or known[0] != changes:
            claim = self._head(tenant)
            known = self._firsts[tenant] = (changes, (self._rank(claim), claim))
        return known[1]

    def _head(self, tenant: TenantName) -> Claim:
        return min(
            (queue[0] for queue in self._queues[tenant].values()),
            key=lambda c: (
                self._standing.experiment_level(c.holder, c.slot_count),
                c.create_time,
                c.lease,
            ),
        )

    def _rank(self, claim: Claim) -> _Rank:
        tenant = claim.lease.tenant
        return (
            not self._standing.within_guarantee(claim),
            self._standing.tenant_level(tenant, claim.slot_count),
            claim.create_time,
            claim.lease,
        )


def _by_rank(first: tuple[_Rank, Claim]) -> _Rank:
    return first[0]
