"""What is divided: leases, pools and tenants of one moment, resource by resource."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from allotment_allocator.domain import apart
from allotment_allocator.domain.account import Account
from allotment_allocator.domain.lease import Lease, LeaseState
from allotment_allocator.domain.pool import Place, Pool
from allotment_allocator.domain.ports import Party, Trainer, TrainerState
from allotment_allocator.domain.queueing import Queueing, submit, without_queued
from allotment_allocator.domain.snapshot import Claim, Decision, Holding, Policy, Snapshot
from allotment_allocator.domain.tenant import Isolation, Tenant
from allotment_core.names import TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a division depends on."""

    leases: Sequence[Lease]
    """Those that have not ended."""
    pools: Sequence[Pool]
    tenants: Sequence[Tenant]
    accounts: Mapping[Party, Account]
    trainers: Sequence[Trainer]
    """Those that are not known to be gone."""
    now: datetime
    policy: Policy
    queueing: Queueing
    half_life_s: float


def decisions(situation: Situation) -> Iterator[Decision]:
    """One for each resource: its slots are shared among those who want them. Each knows what
    those before it have decided about nodes that tenants have alone.
    """
    guests = apart.Guests(situation.leases)
    for snapshot in _snapshots(situation):
        own = without_queued(snapshot, situation.queueing)
        decision = apart.divide(guests.noted(own))
        guests.add(decision)
        yield submit(snapshot, decision, situation.queueing)


def parties(lease: Lease) -> tuple[Party, Party]:
    """Whose accounts a lease is counted on."""
    resource = lease.wanted.resource
    return (resource, lease.tenant), (resource, lease.holder)


def _snapshots(situation: Situation) -> list[Snapshot]:
    leases, now = situation.leases, situation.now
    live = {lease.name for lease in leases if lease.staffed}
    leaving: Counter[Place] = Counter()
    departing: dict[str, set[TenantName]] = {}
    for trainer in situation.trainers:
        if trainer.lease not in live and trainer.state is not TrainerState.IDLE:
            leaving[trainer.place] += trainer.slot_count
            departing.setdefault(trainer.place.node, set()).add(trainer.tenant)
    dedicated = (t.name for t in situation.tenants if t.isolation is Isolation.DEDICATED)
    to_be_alone = frozenset(dedicated)
    return [
        Snapshot(
            pools=tuple(pool for pool in situation.pools if pool.resource == resource),
            terms={t.name: t.terms.of(resource) for t in situation.tenants},
            queued=tuple(
                _claim(lease, now)
                for lease in leases
                if not lease.staffed and lease.wanted.resource == resource
            ),
            held=tuple(
                _holding(lease, lease.place, now)
                for lease in leases
                if lease.place is not None and lease.wanted.resource == resource
            ),
            attained={
                who: account.at(now, situation.half_life_s).attained
                for (what, who), account in situation.accounts.items()
                if what == resource
            },
            leaving=leaving,
            policy=situation.policy,
            dedicated=to_be_alone,
            departing=departing,
        )
        for resource in sorted({lease.wanted.resource for lease in leases})
    ]


def _claim(lease: Lease, now: datetime) -> Claim:
    return Claim(
        lease=lease.name,
        holder=lease.holder,
        slot_count=lease.slot_count,
        create_time=lease.create_time,
        waited_s=(now - lease.create_time).total_seconds(),
        wanted=lease.wanted,
    )


def _holding(lease: Lease, place: Place, now: datetime) -> Holding:
    since = lease.grant_time or now
    return Holding(
        lease=lease.name,
        holder=lease.holder,
        slot_count=lease.slot_count,
        held_s=(now - since).total_seconds(),
        place=place,
        revoking=lease.state is LeaseState.REVOKING,
        by_queue=lease.submit_time is not None,
        wanted=lease.wanted,
    )
