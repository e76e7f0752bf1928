"""The state of one division while it is being made: who holds what, and who is next."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from datetime import datetime

from allotment_allocator.domain.ranking import Ranking
from allotment_allocator.domain.room import Room
from allotment_allocator.domain.snapshot import Claim, Snapshot
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import ExperimentName, LeaseName, TenantName

_NO_TERMS = Terms()
_HolderRank = tuple[float, datetime, LeaseName]
_TenantRank = tuple[bool, float, datetime, LeaseName]


class Standing:
    """Counts of slots that grants and revocations change as they are decided."""

    def __init__(self, snapshot: Snapshot, room: Room | None = None) -> None:
        self.snapshot = snapshot
        self.policy = snapshot.policy
        self.of_tenant: Counter[TenantName] = Counter()
        self.of_experiment: Counter[ExperimentName] = Counter()
        for holding in snapshot.held:
            self.of_experiment[holding.holder] += holding.slot_count
        for holder, slot_count in self.of_experiment.items():
            self.of_tenant[holder.tenant] += slot_count
        self.changed: list[ExperimentName] = []
        """Whose counts have changed, in that order: a Line ranks them anew."""
        self.room = room or Room(snapshot)

    def copy(self) -> "Standing":
        """With counts of its own; the room is shared."""
        twin = Standing.__new__(Standing)
        twin.snapshot, twin.policy, twin.room = self.snapshot, self.policy, self.room
        twin.changed = []
        twin.of_tenant, twin.of_experiment = self.of_tenant.copy(), self.of_experiment.copy()
        return twin

    def take(self, holder: ExperimentName, slot_count: int) -> None:
        """The holder gets slots (or loses them: a negative count)."""
        self.changed.append(holder)
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
    """Claims in the order in which they are served, given what has been taken so far.

    Within guarantees first, then least slot-time of the tenant, then of its experiment. Only what
    has changed since the last claim is ranked again.
    """

    def __init__(self, standing: Standing, claims: Iterable[Claim]) -> None:
        self._standing = standing
        self._seen = len(standing.changed)
        self._queues: dict[ExperimentName, deque[Claim]] = {}
        self._tenants: Ranking[TenantName, _TenantRank] = Ranking()
        self._holders: dict[TenantName, Ranking[ExperimentName, _HolderRank]] = {}
        for claim in sorted(claims, key=lambda c: (c.create_time, c.lease)):
            queue = self._queues.get(claim.holder)
            if queue is None:
                queue = self._queues[claim.holder] = deque()
            queue.append(claim)
        self._popped: tuple[ExperimentName, ...] = ()
        self._rank(self._queues)

    def pop(self) -> Claim | None:
        """The next claim."""
        changed = self._standing.changed
        self._rank({*changed[self._seen :], *self._popped})
        self._seen = len(changed)
        tenant = self._tenants.first()
        if tenant is None:
            return None
        holder = self._holders[tenant].first()
        assert holder is not None, tenant
        self._popped = (holder,)
        return self._queues[holder].popleft()

    def rest(self) -> Sequence[Claim]:
        """What has not been popped, in no particular order."""
        return [claim for queue in self._queues.values() for claim in queue]

    def _rank(self, holders: Iterable[ExperimentName]) -> None:
        """Ranks these, and then their tenants, by how they stand now."""
        tenants: set[TenantName] = set()
        for holder in holders:
            tenants.add(holder.tenant)
            queue = self._queues.get(holder)
            if queue is None:
                continue
            ranking = self._holders.setdefault(holder.tenant, Ranking())
            if queue:
                head = queue[0]
                level = self._standing.experiment_level(holder, head.slot_count)
                ranking.put(holder, (level, head.create_time, head.lease))
            else:
                ranking.drop(holder)
        for tenant in tenants:
            first = self._holders[tenant].first() if tenant in self._holders else None
            if first is None:
                self._tenants.drop(tenant)
            else:
                self._tenants.put(tenant, self._tenant_rank(self._queues[first][0]))

    def _tenant_rank(self, claim: Claim) -> _TenantRank:
        return (
            not self._standing.within_guarantee(claim),
            self._standing.tenant_level(claim.lease.tenant, claim.slot_count),
            claim.create_time,
            claim.lease,
        )
