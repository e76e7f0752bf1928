"""Tenants whose trainers a queue of the cluster (Kueue) admits: what is submitted to it, and when.

The queue keeps the quotas and says when a trainer may run. What is left to decide is the order, in
which a division would serve the tenants, and how many wait in the queue at once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.pool import ANYWHERE, Place, Pool
from allotment_allocator.domain.snapshot import Claim, Decision, Snapshot
from allotment_allocator.domain.standing import Line, Standing
from allotment_allocator.domain.waits import NO_POOL, QUOTA
from allotment_core.names import LeaseName, TenantName

QUEUE_LIMIT = "QUEUE_LIMIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queueing:
    """Which queue a tenant's trainers wait in."""

    default: str = ""
    """Of tenants that are not named; empty: they have none."""
    by_tenant: Mapping[str, str] = field(default_factory=dict)
    """By the tenant's id; empty: it has none."""
    pending_limit: int = 100
    """Leases of one queue that wait to be admitted at once."""

    def of(self, tenant: TenantName) -> str:
        return self.by_tenant.get(tenant.tenant_id, self.default)


def without_queued(snapshot: Snapshot, queueing: Queueing) -> Snapshot:
    """What is divided here: claims of tenants that have no queue."""
    if not queueing.default and not queueing.by_tenant:
        return snapshot
    own = tuple(claim for claim in snapshot.queued if not queueing.of(claim.lease.tenant))
    return replace(snapshot, queued=own)


def submit(snapshot: Snapshot, decision: Decision, queueing: Queueing) -> Decision:
    """The decision, with what is submitted to queues and why other claims of theirs wait."""
    claims = [claim for claim in snapshot.queued if queueing.of(claim.lease.tenant)]
    if not claims:
        return decision
    standing = Standing(snapshot)
    pending: Counter[str] = Counter()
    load: Counter[Pool] = Counter()
    for holding in snapshot.held:
        if holding.place.node == ANYWHERE:
            pending[queueing.of(holding.lease.tenant)] += 1
    line = Line(standing, claims)
    submissions: dict[LeaseName, Place] = {}
    waits = dict(decision.waits)
    while (claim := line.pop()) is not None:
        queue = queueing.of(claim.lease.tenant)
        pool = _pool(snapshot, claim, load)
        wait = _wait(standing, claim, pool, queue, queueing, pending)
        if wait is not None or pool is None:
            if wait is not None:
                waits[claim.lease] = replace(wait, position=len(waits) + 1)
            continue
        standing.take(claim.holder, claim.slot_count)
        pending[queue] += 1
        load[pool] += claim.slot_count
        submissions[claim.lease] = Place(pool.name, ANYWHERE)
    return replace(decision, submissions=submissions, waits=waits)


def _pool(snapshot: Snapshot, claim: Claim, load: Counter[Pool]) -> Pool | None:
    """Where it would have most company left: the pool with most slots for what it is given now."""
    suitable = [
        pool
        for pool in snapshot.pools
        if pool.suits(claim.wanted) and pool.largest_node >= claim.slot_count
    ]
    return max(suitable, key=lambda pool: pool.slot_count - load[pool], default=None)


def _wait(
    standing: Standing,
    claim: Claim,
    pool: Pool | None,
    queue: str,
    queueing: Queueing,
    pending: Counter[str],
) -> Wait | None:
    """Why it is not submitted now; None: it is."""
    tenant = claim.lease.tenant
    if pool is None:
        return Wait(
            NO_POOL,
            f"no node has {claim.slot_count} slots for it; release this lease and ask for fewer, "
            "or add a larger node",
        )
    if not standing.within_quota(claim):
        return Wait(
            QUOTA,
            f"{tenant} has {standing.of_tenant[tenant]} of the "
            f"{standing.terms(tenant).quota_slots} slots that its quota allows; it goes on when "
            "one of its leases ends, or with a higher quota",
        )
    if pending[queue] >= queueing.pending_limit:
        return Wait(
            QUEUE_LIMIT,
            f"{pending[queue]} Jobs wait in queue {queue} already, which is the most at once; it "
            "is submitted when one of them is admitted",
        )
    return None
