"""Changes of the books, each within one transaction.

An Allocation lives as long as its transaction. `changed` and `waits` are what watchers have to be
told once it is durable.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from allotment_allocator.domain.account import Account
from allotment_allocator.domain.charging import charges
from allotment_allocator.domain.lease import Lease, LeaseState, Problem, Wait
from allotment_allocator.domain.ledger import Ledger
from allotment_allocator.domain.pool import (
    UNKNOWN,
    Place,
    Pool,
    Wanted,
    check_fits,
    known,
)
from allotment_allocator.domain.ports import Books, Party, Trainer, TrainerState, Used, Who
from allotment_allocator.domain.queueing import Queueing
from allotment_allocator.domain.situation import Situation, decisions, parties
from allotment_allocator.domain.snapshot import (
    Decision,
    Policy,
    Revocation,
    RevocationReason,
)
from allotment_allocator.domain.tenant import Isolation, Tenant, Terms, check_guarantees
from allotment_allocator.domain.waits import NO_POOL
from allotment_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    not_found,
)
from allotment_core.etags import check_etag
from allotment_core.names import ExperimentName, LeaseName, TenantName, new_id

_TERMS = ("weight", "guaranteed_slots", "quota_slots", "guaranteed_gpus", "quota_gpus")
MASK_PATHS = (*_TERMS, "shares_experience", "isolation")
_WHY = {
    RevocationReason.GUARANTEE: "a tenant below its guarantee needs the slots",
    RevocationReason.FAIR_SHARE: "somebody with fewer slots for its weight needs them",
    RevocationReason.TURN_OVER: "more is asked for than there is, and others had less time",
    RevocationReason.POOL_SHRANK: "its node has fewer slots than are held on it",
    RevocationReason.NODE_DRAINED: "its node was cordoned and there is room on another one",
    RevocationReason.NODE_LOST: "its node is gone",
    RevocationReason.NODE_SHARED: "its tenant has nodes of its own now, and this one is shared",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The allocator's numbers."""

    policy: Policy = field(default_factory=Policy)
    ttl_s: float = 60.0
    revoke_grace_s: float = 10.0
    half_life_s: float = 600.0
    dedicated_nodes: bool = False
    """Tenants can have nodes alone."""
    queueing: Queueing = field(default_factory=Queueing)


class Allocation:
    """The changes of one transaction at one instant. They are in the books after `store`."""

    def __init__(
        self,
        books: Books,
        pools: tuple[Pool, ...] | None,
        rules: Rules,
        now: datetime,
        trainers: Callable[[], Sequence[Trainer]] = tuple,
        spared_s: float = 0.0,
    ) -> None:
        """`pools` are None while they are not known: then leases are queued and nothing more.
        `spared_s`: how much longer than their time leases last now.
        """
        self._spared_s = spared_s
        self._books = books
        self._ledger = Ledger(books)
        self._pools = pools
        self._rules = rules
        self._trainers = trainers
        self.now = now
        self.waits: Mapping[LeaseName, Wait] | None = None
        """Of every queued lease; None: nothing was divided."""

    @property
    def changed(self) -> Mapping[LeaseName, Lease]:
        """The leases that are different from before."""
        return self._ledger.changed

    def store(self) -> None:
        """Writes what has changed; the last thing in the transaction."""
        self._ledger.store()

    # Tenants

    def tenant(self, name: TenantName) -> Tenant:
        """Raises: NotFound."""
        tenant = self._books.tenant(name)
        if tenant is None:
            raise not_found(name)
        return tenant

    def create_tenant(
        self,
        name: TenantName,
        terms: Terms,
        shares_experience: bool = False,
        isolation: Isolation = Isolation.SHARED,
    ) -> Tenant:
        """Raises: AlreadyExists, FailedPrecondition (GUARANTEES_EXCEED_POOL,
        NO_DEDICATED_NODES).
        """
        if self._books.tenant(name) is not None:
            raise AlreadyExists(
                f"{name} exists already; update it, or choose another tenant_id",
                reason="TENANT_EXISTS",
            )
        tenant = Tenant(
            name=name,
            terms=terms,
            shares_experience=shares_experience,
            isolation=isolation,
            create_time=self.now,
            update_time=self.now,
        )
        self._check_isolation(tenant)
        self._check_guarantees(tenant)
        self._books.put_tenant(tenant)
        return tenant

    def update_tenant(
        self,
        name: TenantName,
        values: Mapping[str, float | Isolation],
        paths: Sequence[str],
        etag: str,
    ) -> Tenant:
        """Sets what the paths name (none: all).

        Raises: NotFound, InvalidArgument, Aborted (ETAG_MISMATCH), FailedPrecondition.
        """
        tenant = self.tenant(name)
        check_etag(etag, tenant.etag, what=str(name))
        for path in paths:
            if path not in MASK_PATHS:
                raise InvalidArgument(
                    f"update_mask names {path[:80]!r}; a tenant has {', '.join(MASK_PATHS)}",
                    violations=(FieldViolation("update_mask", f"one of {', '.join(MASK_PATHS)}"),),
                )
        chosen = {path: values[path] for path in paths or MASK_PATHS}
        shares = bool(chosen.pop("shares_experience", tenant.shares_experience))
        isolation = Isolation(chosen.pop("isolation", tenant.isolation))
        terms = replace(tenant.terms, **chosen)  # type: ignore[arg-type]
        changed = tenant.changed(terms, shares, isolation, self.now)
        self._check_isolation(changed)
        self._check_guarantees(changed)
        self._books.put_tenant(changed)
        if changed.isolation is not tenant.isolation:
            self._charge(changed)
        return changed

    def _check_isolation(self, tenant: Tenant) -> None:
        """Raises: FailedPrecondition where nodes can't be had alone."""
        if tenant.isolation is Isolation.DEDICATED and not self._rules.dedicated_nodes:
            raise FailedPrecondition(
                f"{tenant.name} can't have nodes alone: the system runs on one machine, or may not "
                "mark nodes (Helm: dedicatedNodes.enabled=true); leave its isolation SHARED",
                reason="NO_DEDICATED_NODES",
            )

    def delete_tenant(self, name: TenantName, etag: str) -> None:
        """Raises: NotFound, Aborted, FailedPrecondition (TENANT_HAS_LEASES)."""
        tenant = self.tenant(name)
        check_etag(etag, tenant.etag, what=str(name))
        live = [lease for lease in self._ledger.live() if lease.tenant == name]
        if live:
            raise FailedPrecondition(
                f"{name} has {len(live)} leases that have not ended ({live[0].name} for "
                f"{live[0].holder}); cancel its experiments first",
                reason="TENANT_HAS_LEASES",
            )
        self._books.delete_tenant(name)

    # Leases

    def lease(self, name: LeaseName) -> Lease:
        """Raises: NotFound."""
        [lease] = self._ledger.leases([name])
        if lease is None:
            raise not_found(name)
        return lease

    def create_lease(
        self, tenant: TenantName, holder: ExperimentName, slot_count: int, wanted: Wanted
    ) -> Lease:
        """A queued lease; `divide` may grant it in the same transaction.

        Raises: NotFound (tenant), InvalidArgument, FailedPrecondition (LARGER_THAN_QUOTA).
        """
        terms = self.tenant(tenant).terms
        if holder.tenant != tenant:
            raise InvalidArgument(
                f"holder {holder} is not of {tenant}; the parent has to be the experiment's tenant",
                violations=(FieldViolation("holder", "has to be of the parent"),),
            )
        if self._pools is not None:
            check_fits(self._pools, wanted, slot_count)
        quota = terms.of(wanted.resource).quota_slots
        if 0 < quota < slot_count:
            raise FailedPrecondition(
                f"{tenant} may hold {quota} slots of {wanted.resource}, asked for {slot_count} at "
                "once; ask for fewer or raise its quota",
                reason="LARGER_THAN_QUOTA",
            )
        name = LeaseName(tenant, new_id("l"))
        lease = Lease(
            name=name,
            holder=holder,
            slot_count=slot_count,
            create_time=self.now,
            wanted=wanted,
        )
        self._seat(lease)
        return self._ledger.put(lease)

    def renew(self, wanted: Sequence[tuple[LeaseName, int]]) -> list[tuple[bool, Lease | None]]:
        """Of each name and epoch: whether it was extended, and the lease as it is now.

        Too late is too late.
        """
        self._ledger.leases([name for name, _ in wanted])
        return [self._renew(name, epoch) for name, epoch in wanted]

    def _renew(self, name: LeaseName, epoch: int) -> tuple[bool, Lease | None]:
        [lease] = self._ledger.leases([name])
        if lease is None:
            return False, None
        if lease.overdue(self.now, self._spared_s):
            return False, self._end(lease.expired(self.now))
        if lease.epoch != epoch or not lease.granted:
            return False, lease
        return True, self._ledger.put(lease.renewed(self.now, self._rules.ttl_s))

    def release(self, name: LeaseName, epoch: int) -> Lease:
        """Ends it; one that has ended stays as it is.

        Raises: NotFound, FailedPrecondition (STALE_EPOCH) when it has moved on to another trainer.
        """
        lease = self.lease(name)
        if epoch and epoch != lease.epoch:
            raise FailedPrecondition(
                f"{name} is at epoch {lease.epoch}, you named {epoch}; read it again, or name "
                "epoch 0 to release it whatever its epoch is",
                reason="STALE_EPOCH",
            )
        return lease if lease.ended else self._end(lease.released(self.now))

    def restart(
        self, name: LeaseName, epoch: int, problem: Problem | None, trainer_end: str = ""
    ) -> Lease | None:
        """The next epoch for a new trainer; None when the lease is not HELD at this epoch."""
        lease = self._current(name, epoch)
        if lease is None or not (lease.state is LeaseState.HELD or lease.submitted):
            return None
        return self._ledger.put(lease.restarted(problem, trainer_end))

    def admit(self, name: LeaseName, epoch: int) -> None:
        """The cluster's queue has let its trainer run: from now on it is held."""
        lease = self._current(name, epoch)
        if lease is not None and lease.submitted:
            admitted = self._ledger.put(lease.admitted(self.now, self._rules.ttl_s))
            self._count(dict.fromkeys(parties(admitted), admitted.charge))

    def evict(self, name: LeaseName, epoch: int, why: str) -> None:
        """The cluster's queue has to admit its trainer anew: it is taken back, without a strike."""
        lease = self._current(name, epoch)
        if lease is not None and lease.state is LeaseState.HELD:
            problem = Problem(
                "REVOKED_BY_QUEUE", f"{name} is taken back: {why}; ask for another lease to go on"
            )
            self._ledger.put(lease.revoked(self.now, self._rules.revoke_grace_s, problem))

    def _current(self, name: LeaseName, epoch: int) -> Lease | None:
        """The lease, if it is at this epoch."""
        [lease] = self._ledger.leases([name])
        return lease if lease is not None and lease.epoch == epoch else None

    def mend(self, name: LeaseName) -> None:
        """Forgets the problem of a lease whose trainer runs well again."""
        [lease] = self._ledger.leases([name])
        if lease is not None and lease.state is LeaseState.HELD and lease.problem is not None:
            self._ledger.put(lease.mended())

    def find(self, name: LeaseName, epoch: int, place: Place) -> None:
        """Notes where the trainer of a lease is whose node had still to come."""
        [lease] = self._ledger.leases([name])
        if lease is None or not lease.granted or lease.epoch != epoch or lease.place is None:
            return
        if lease.place.is_expected:
            self._ledger.put(lease.found(place))
            if lease.alone:
                self._charge(self.tenant(lease.tenant))

    def settle(self) -> None:
        """Ends leases whose time is over, and revoked ones whose trainer has left."""
        trainers_known = self._pools is not None
        served = {t.lease for t in self._trainers() if t.state is not TrainerState.IDLE}
        for lease in self._ledger.live():
            if lease.overdue(self.now, self._spared_s):
                self._end(lease.expired(self.now))
            elif lease.state is LeaseState.REVOKING and lease.name not in served and trainers_known:
                self._end(lease.released(self.now))

    # Division

    def preview(self, leases: Sequence[Lease]) -> Decision:
        """What `divide` would do if these were the leases that have not ended."""
        if self._pools is None:
            return Decision({}, {}, (), _unknown(leases))
        decisions = list(self._decisions(leases))
        return Decision(
            {name: place for d in decisions for name, place in d.grants.items()},
            {name: place for d in decisions for name, place in d.moves.items()},
            tuple(revocation for d in decisions for revocation in d.revocations),
            {name: wait for d in decisions for name, wait in d.waits.items()},
            {name: place for d in decisions for name, place in d.submissions.items()},
        )

    def divide(self) -> None:
        """Grants and takes back as decided, and notes why the rest waits."""
        leases = {lease.name: lease for lease in self._ledger.live()}
        if self._pools is None:
            self.waits = _unknown(leases.values())
            return
        waits: dict[LeaseName, Wait] = {}
        more: Counter[Party] = Counter()
        for decision in self._decisions(tuple(leases.values())):
            for name, place in decision.grants.items():
                granted = leases[name].granted_at(place, self.now, self._rules.ttl_s)
                for party in parties(granted):
                    more[party] += granted.charge
                self._ledger.put(granted)
            for name, place in decision.submissions.items():
                alone = self.tenant(name.tenant).isolation is Isolation.DEDICATED
                self._ledger.put(leases[name].submitted_at(place, self.now, alone=alone))
            for name, place in decision.moves.items():
                self._ledger.put(leases[name].moved(place))
            for revocation in decision.revocations:
                lease = leases[revocation.lease]
                problem = _problem(revocation)
                self._ledger.put(lease.revoked(self.now, self._rules.revoke_grace_s, problem))
            waits.update(decision.waits)
        self._count(more)
        self.waits = waits
        for tenant in self._books.tenants():
            if tenant.isolation is Isolation.DEDICATED:
                self._charge(tenant)

    def _decisions(self, leases: Sequence[Lease]) -> Iterator[Decision]:
        return decisions(
            Situation(
                leases=leases,
                pools=self._pools or (),
                tenants=self._books.tenants(),
                accounts=self._ledger.accounts({p for lease in leases for p in parties(lease)}),
                trainers=self._trainers(),
                now=self.now,
                policy=self._rules.policy,
                queueing=self._rules.queueing,
                half_life_s=self._rules.half_life_s,
            )
        )

    def _check_guarantees(self, tenant: Tenant) -> None:
        """Raises: FailedPrecondition, Unavailable (POOLS_UNKNOWN)."""
        if not (tenant.terms.guaranteed_slots or tenant.terms.guaranteed_gpus):
            return
        capacity: Counter[str] = Counter()
        for pool in known(self._pools):
            capacity[pool.resource] += pool.slot_count
        check_guarantees(self._books.tenants(), tenant, capacity)

    # Rows

    def _end(self, lease: Lease) -> Lease:
        if lease.grant_time is not None:
            self._count(dict.fromkeys(parties(lease), -lease.charge))
            self._ledger.add_usage(lease.holder, Used(lease.slot_seconds(self.now), 1))
        ended = self._ledger.put(lease)
        if lease.alone:
            self._charge(self.tenant(lease.tenant))
        return ended

    def _charge(self, tenant: Tenant) -> None:
        """Who has nodes alone is charged for all of them, each lease for its part."""
        sizes = {
            Place(pool.name, node.name): node.slot_count
            for pool in self._pools or ()
            for node in pool.nodes
        }
        there: dict[Place, list[Lease]] = {}
        for lease in self._ledger.live():
            if lease.tenant == tenant.name and lease.granted and lease.place is not None:
                there.setdefault(lease.place, []).append(lease)
        alone = tenant.isolation is Isolation.DEDICATED
        for place, leases in there.items():
            for lease, slots in charges(sizes.get(place, 0), leases):
                charge = slots if alone else None
                if charge != lease.charged_slots:
                    charged = lease.charged(charge, self.now)
                    more = charged.charge - lease.charge
                    self._count(dict.fromkeys(parties(lease), more))
                    self._ledger.put(charged)

    def _account(self, party: Party) -> Account:
        known = self._ledger.accounts((party,)).get(party)
        account = known or Account(attained=0.0, as_of=self.now)
        return account.at(self.now, self._rules.half_life_s)

    def _count(self, more_slots: Mapping[Party, int]) -> None:
        for party, more in more_slots.items():
            account = self._account(party)
            self._ledger.put_account(party, account.holding(account.slot_count + more))

    def _seat(self, lease: Lease) -> None:
        """Who had no lease begins at the level of the least of those who have."""
        resource = lease.wanted.resource
        if self._ledger.competes(resource, lease.holder):
            return
        holders = set(self._ledger.holders(resource))
        tenants = {each.tenant for each in holders}
        if lease.tenant not in tenants:
            weights = {t.name: t.terms.weight for t in self._books.tenants()}
            self._seat_among((resource, lease.tenant), tenants, weights)
        if lease.holder not in holders:
            peers = [each for each in holders if each.tenant == lease.tenant]
            self._seat_among((resource, lease.holder), peers, {})

    def _seat_among(
        self, party: Party, peers: Iterable[Who], weights: Mapping[TenantName, float]
    ) -> None:
        resource, who = party
        levels = [
            (self._account((resource, peer)).attained, weights.get(peer.tenant, 1.0))
            for peer in peers
        ]
        seated = self._account(party).seated(weights.get(who.tenant, 1.0), levels)
        self._ledger.put_account(party, seated)


def _unknown(leases: Iterable[Lease]) -> dict[LeaseName, Wait]:
    return {lease.name: Wait(NO_POOL, UNKNOWN) for lease in leases if not lease.granted}


def _problem(revocation: Revocation) -> Problem:
    whom = f" ({revocation.claim})" if revocation.claim else ""
    return Problem(
        f"REVOKED_{revocation.reason.value}",
        f"{revocation.lease} is taken back: {_WHY[revocation.reason]}{whom}; "
        "ask for another lease to go on",
    )
