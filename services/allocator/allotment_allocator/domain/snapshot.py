"""What a division sees, and what it decides."""

import enum
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.pool import CPU_SLOTS, Place, Pool, Wanted
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import ExperimentName, LeaseName, TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A queued lease."""

    lease: LeaseName
    holder: ExperimentName
    slot_count: int
    create_time: datetime
    waited_s: float
    wanted: Wanted = CPU_SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A lease that has slots."""

    lease: LeaseName
    holder: ExperimentName
    slot_count: int
    held_s: float
    place: Place
    revoking: bool = False
    by_queue: bool = False
    """The cluster's queue has admitted it, or is to: it goes nowhere else by itself."""
    wanted: Wanted = CPU_SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers of the division."""

    minimum_runtime_s: float = 5.0
    """A lease is left alone for this long after its grant."""
    turn_s: float = 30.0
    """Where there are more who want slots than slots: how long a turn is, at least."""
    reserve_after_s: float = 15.0
    """A lease of several slots that has waited so long keeps a node when it is next."""
    horizon_s: float = 30.0
    """Seconds that a slot held now counts on top of what was attained: the use that it promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision depends on: the pools of one resource, and their users."""

    pools: tuple[Pool, ...]
    terms: Mapping[TenantName, Terms]
    queued: tuple[Claim, ...]
    held: tuple[Holding, ...]
    attained: Mapping[TenantName | ExperimentName, float] = field(default_factory=dict)
    """Faded slot-seconds; absent: none."""
    leaving: Mapping[Place, int] = field(default_factory=dict)
    """Slots of trainers whose lease has ended and that are not known to be gone."""
    policy: Policy = field(default_factory=Policy)
    dedicated: frozenset[TenantName] = frozenset()
    """Tenants that share no node with others."""
    neighbours: Mapping[str, AbstractSet[TenantName]] = field(default_factory=dict)
    """By node, who has leases of other resources there."""
    departing: Mapping[str, AbstractSet[TenantName]] = field(default_factory=dict)
    """By node, who has trainers there whose lease has ended."""


class RevocationReason(enum.Enum):
    GUARANTEE = "GUARANTEE"
    """For a tenant that is below its guarantee."""
    FAIR_SHARE = "FAIR_SHARE"
    """For somebody who still has no more than the former holder after the change."""
    TURN_OVER = "TURN_OVER"
    """More wanted than there is: the former holder had more time, and at least a turn."""
    POOL_SHRANK = "POOL_SHRANK"
    """The node has fewer slots than are held on it."""
    NODE_DRAINED = "NODE_DRAINED"
    """The node was cordoned, and there is room elsewhere."""
    NODE_LOST = "NODE_LOST"
    """The node is gone."""
    NODE_SHARED = "NODE_SHARED"
    """Its tenant is to have nodes alone, and others are on this one."""


@dataclass(frozen=True, slots=True)
class Revocation:
    lease: LeaseName
    reason: RevocationReason
    claim: LeaseName | None
    """The queued lease that it is for."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Leases to grant and where, leases to take back, and why every other queued one waits."""

    grants: Mapping[LeaseName, Place]
    moves: Mapping[LeaseName, Place]
    """Leases whose node is gone, and where they go on with a new trainer."""
    revocations: tuple[Revocation, ...]
    waits: Mapping[LeaseName, Wait]
    submissions: Mapping[LeaseName, Place] = field(default_factory=dict)
    """Leases that the cluster's queue is asked to admit, and the pool."""
