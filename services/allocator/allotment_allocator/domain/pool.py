"""Where trials can run: pools of nodes whose slots are alike.

A slot is what the smallest trainer needs: on a machine's CPUs some threads and memory, on a GPU
node one device, or one slice of it (a MIG profile).
"""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from allotment_core.errors import FieldViolation, InvalidArgument, Unavailable
from allotment_core.names import PoolName

CPU = "cpu"
GPU = "gpu"
MIG_PREFIX = "mig-"
"""What a slot is: `cpu`, `gpu` (a whole device), or a slice as `mig-1g.10gb`."""


class PoolKind(enum.Enum):
    LOCAL = "LOCAL"
    """The machine that the allocator runs on."""
    NODES = "NODES"
    """Kubernetes nodes."""


class NodeState(enum.Enum):
    OPEN = "OPEN"
    CORDONED = "CORDONED"
    """No new grants; leases move away once there is room elsewhere."""
    AWAY = "AWAY"
    """Not ready, perhaps not for long: no new grants, its leases stay."""
    LOST = "LOST"
    """Gone, or not ready for too long: its leases are taken back at once."""


ANYWHERE = "*"
"""In the place of a node: one of the pool that is not known yet."""


class Place(NamedTuple):
    """A node of a pool."""

    pool: PoolName
    node: str

    @property
    def is_expected(self) -> bool:
        """Whether it is not known yet which node it is: an autoscaler has still to bring it, or
        the cluster's queue and scheduler choose it.
        """
        return self.node == ANYWHERE or self.node.startswith("+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with slots that nobody else uses."""

    name: str
    slot_count: int
    state: NodeState = NodeState.OPEN
    expected: bool = False
    """An autoscaler will bring it once something waits for it."""
    in_use_by_others: bool = False
    """Pods that are not ours work there, so that no tenant can have it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a lease's slots have to be. Empty: any."""

    resource: str = CPU
    product: str = ""
    """Of the device, as its node is labelled."""
    pool: str = ""
    """The id of the one pool that will do."""
    node: str = ""
    """The one node that will do; only within a division."""


CPU_SLOTS = Wanted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Nodes of one kind. A lease has all its slots on one of them."""

    name: PoolName
    nodes: tuple[Node, ...]
    kind: PoolKind = PoolKind.LOCAL
    resource: str = CPU
    product: str = ""
    threads_per_slot: int = 1
    cores_per_slot: float = 0.0
    """CPU that a slot has, in cores; 0: one for each thread."""
    memory_bytes_per_slot: int = 1
    price_per_slot_hour: float = 0.0
    """0: not known."""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels that all its nodes have, those too that are still to come."""
    slot_count: int = field(init=False, compare=False)
    """Slots of all its nodes."""
    largest_node: int = field(init=False, compare=False)
    """Slots of its largest node: no lease can have more."""

    def __post_init__(self) -> None:
        # Counted once: a pool may have hundreds of nodes, and each new lease asks.
        slots = [node.slot_count for node in self.nodes]
        object.__setattr__(self, "slot_count", sum(slots))
        object.__setattr__(self, "largest_node", max(slots, default=0))
        for what in ("threads_per_slot", "memory_bytes_per_slot"):
            if getattr(self, what) < 1:
                raise InvalidArgument(
                    f"{self.name} has {what} {getattr(self, what)}; it has to be 1 or more",
                    violations=(FieldViolation(what, "has to be 1 or more"),),
                )

    def suits(self, wanted: Wanted) -> bool:
        """Whether its slots are what a lease wants."""
        return (
            wanted.resource == self.resource
            and wanted.product in ("", self.product)
            and wanted.pool in ("", self.name.pool_id)
        )


def local_pool(
    name: PoolName, slot_count: int, threads_per_slot: int = 1, memory_bytes_per_slot: int = 1
) -> Pool:
    """The slots of one machine. Raises: InvalidArgument."""
    if slot_count < 1:
        raise InvalidArgument(
            f"{name} has slot_count {slot_count}; it has to be 1 or more",
            violations=(FieldViolation("slot_count", "has to be 1 or more"),),
        )
    return Pool(
        name=name,
        nodes=(Node(name=name.pool_id, slot_count=slot_count),),
        threads_per_slot=threads_per_slot,
        memory_bytes_per_slot=memory_bytes_per_slot,
    )


UNKNOWN = "the cluster's nodes are being listed; it goes on when the API server has answered"


def known(pools: tuple[Pool, ...] | None) -> tuple[Pool, ...]:
    """Raises: Unavailable (POOLS_UNKNOWN) while nobody knows what there is."""
    if pools is None:
        raise Unavailable(UNKNOWN, reason="POOLS_UNKNOWN", retry_after_s=1.0)
    return pools


def check_fits(pools: tuple[Pool, ...], wanted: Wanted, slot_count: int) -> None:
    """Raises: InvalidArgument when no lease like this can ever be granted."""
    if slot_count < 1:
        raise InvalidArgument(
            f"slot_count is {slot_count}; it has to be 1 or more (0 or unset: 1)",
            violations=(FieldViolation("slot_count", "has to be 1 or more"),),
        )
    suitable = [pool for pool in pools if pool.suits(wanted)]
    if not suitable:
        kinds = ", ".join(sorted({_described(pool) for pool in pools})) or "none"
        raise InvalidArgument(
            f"no pool has slots of {describe(wanted)}; there are {kinds}; ask for one of these",
            reason="NO_SUCH_POOL",
            violations=(FieldViolation("shape", "no pool has such slots"),),
        )
    largest = max(suitable, key=lambda pool: pool.largest_node)
    if slot_count > largest.largest_node:
        raise InvalidArgument(
            f"slot_count is {slot_count}, but no node of {largest.name} has more than "
            f"{largest.largest_node} slots and a lease has to fit on one; ask for fewer slots",
            reason="LARGER_THAN_POOL",
            violations=(FieldViolation("slot_count", f"has to be at most {largest.largest_node}"),),
        )


def describe(wanted: Wanted) -> str:
    """For messages: `gpu NVIDIA-H100 in pools/h100`."""
    where = f" in pools/{wanted.pool}" if wanted.pool else ""
    return f"{wanted.resource}{' ' if wanted.product else ''}{wanted.product}{where}"


def _described(pool: Pool) -> str:
    return f"{pool.resource} {pool.product}".strip()
