"""Pools made of a cluster's nodes: a pure function of what the cluster says.

Nodes are grouped by a label, Allotment's own first, then those that managed clusters put there. The
slots of a GPU node are its devices, or the slices of one MIG profile; the slots of other nodes are
so many threads and so much memory each. What other pods use is not ours.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from allotment_allocator.domain.pool import (
    CPU,
    GPU,
    MIG_PREFIX,
    Node,
    NodeState,
    Place,
    Pool,
    PoolKind,
)
from allotment_core.names import PoolName, TenantName

POOL_LABELS = (
    "allotment.dev/pool",
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "agentpool",
    "karpenter.sh/nodepool",
)
"""The first one that a node has names its pool."""
DEDICATED = "allotment.dev/dedicated"
"""Taint and label of nodes that a tenant has alone: `<release>.<tenant>`."""
HOME_LABEL = "allotment.dev/home"
"""The services' namespace: releases of one name in two namespaces are two."""
_LONGEST_VALUE = 63
WORKLOADS = "workloads"
"""Counts the pods of a node that are not ours and that not every node has."""
PRODUCT_LABEL = "nvidia.com/gpu.product"
UNLABELLED = "default"
_ROUNDING = 1e-9
"""0.3 cores are three times 0.1 of one."""


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as the cluster describes it. CPUs in cores, memory in bytes, devices counted."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, float]
    ready: bool
    ready_since: datetime
    """When `ready` last changed."""
    cordoned: bool = False
    taints: tuple[Taint, ...] = ()


BESIDE = "-cpu"
"""Ends the names of pools of CPU slots on nodes with devices."""


class _Member(NamedTuple):
    """A node in a pool."""

    node: NodeView
    slot_count: int
    in_use_by_others: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredPool:
    """A pool that an autoscaler keeps small: what it can grow to."""

    most_nodes: int
    node_slots: int
    resource: str = GPU
    product: str = ""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """What its nodes will carry; empty: Allotment's own label with the pool's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRules:
    """How nodes become pools."""

    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a whole device."""
    mig_prefix: str = "nvidia.com/mig-"
    threads_per_slot: int = 1
    cores_per_slot: float = 0.0
    """CPU of a slot in cores and parts of one; 0: one for each thread."""
    memory_bytes_per_slot: int = 2 << 30
    gpu_threads: int = 4
    """Threads and memory that a trainer has beside each GPU or slice."""
    gpu_memory_bytes: int = 16 << 30
    prices: Mapping[str, float] = field(default_factory=dict)
    """Per slot and hour, by pool."""
    declared: Mapping[str, DeclaredPool] = field(default_factory=dict)
    tolerated: tuple[str, ...] = ("nvidia.com/gpu",)
    """Keys of taints that trainers tolerate, beside that of nodes kept by the own release."""
    release: str = ""
    home: str = ""
    """Of the services."""
    lost_after_s: float = 40.0
    """A node that is not ready for so long is lost, unless most of its pool is away with it."""


def dedicated_to(release: str, tenant: TenantName) -> str:
    """The mark of nodes that the tenant has alone."""
    value = f"{release}.{tenant.tenant_id}"
    if len(value) <= _LONGEST_VALUE:
        return value
    end = f"-{hashlib.sha256(tenant.tenant_id.encode()).hexdigest()[:8]}"
    return value[: _LONGEST_VALUE - len(end)].rstrip("-") + end


def is_dedicated_by(value: str, home: str, release: str, own_home: str) -> bool:
    """Whether a mark is the release's in that namespace: no tenant's id has a dot."""
    return value.rpartition(".")[0] == release and home == own_home


def make_pools(
    nodes: Sequence[NodeView],
    used_by_others: Mapping[str, Mapping[str, float]],
    rules: PoolRules,
    now: datetime,
    held: Collection[Place] = (),
) -> tuple[Pool, ...]:
    """The pools, by name. `used_by_others`: requests of pods that are not ours, by node; `held`:
    where leases are.

    Nodes with devices have CPU slots only where no other node has some, and only those without a
    taint; they take no new leases of CPU slots any more once other nodes do.
    """
    groups: dict[tuple[str, str], list[_Member]] = {}
    in_order = sorted(nodes, key=lambda each: each.name)
    for node in in_order:
        others = used_by_others.get(node.name, {})
        for resource, slot_count in _slots(node, others, rules).items():
            member = _Member(node, slot_count, _is_in_use(resource, others, rules))
            groups.setdefault((pool_of(node), resource), []).append(member)
    plain = any(resource == CPU for _, resource in groups) or any(
        declared.resource == CPU for declared in rules.declared.values()
    )
    for node in in_order:
        others = used_by_others.get(node.name, {})
        slot_count = _cpu_slots_beside_devices(node, others, rules)
        in_use = _is_in_use(CPU, others, rules)
        if slot_count and not plain:
            member = _Member(node, slot_count, in_use)
            groups.setdefault((pool_of(node) + BESIDE, CPU), []).append(member)
        elif slot_count and Place(PoolName(pool_of(node) + BESIDE), node.name) in held:
            leaving = _Member(replace(node, cordoned=True), slot_count, in_use)
            groups.setdefault((pool_of(node) + BESIDE, CPU), []).append(leaving)
    pools = [_pool(*key, members, rules, now) for key, members in groups.items()]
    there = {pool.name.pool_id for pool in pools}
    for pool_id, declared in rules.declared.items():
        if pool_id not in there:
            pools.append(_empty(pool_id, declared, rules))
    return tuple(sorted(pools, key=lambda pool: pool.name.pool_id))


def pool_of(node: NodeView) -> str:
    """The id of the pool that a node belongs to."""
    label = next((node.labels[key] for key in POOL_LABELS if node.labels.get(key)), UNLABELLED)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-._")[:50] or UNLABELLED


def _slots(node: NodeView, others: Mapping[str, float], rules: PoolRules) -> dict[str, int]:
    """Slots of a node by resource; a node with devices offers no CPU slots."""
    devices: dict[str, int] = {}
    for name, amount in node.allocatable.items():
        if name == rules.gpu_resource:
            resource = GPU
        elif name.startswith(rules.mig_prefix):
            resource = MIG_PREFIX + name.removeprefix(rules.mig_prefix)
        else:
            continue
        if amount > 0:
            devices[resource] = max(0, int(amount - others.get(name, 0)))
    if not all(_is_tolerated(taint, node, rules) for taint in _taints(node)):
        return {}
    return devices or {CPU: _cpu_slots(node, others, rules)}


def _cpu_slots(
    node: NodeView, others: Mapping[str, float], rules: PoolRules, devices: float = 0.0
) -> int:
    """What the node's devices need stays with them."""
    free_cores = _beside(
        node.allocatable.get("cpu", 0.0) - others.get("cpu", 0.0), devices * rules.gpu_threads
    )
    free_bytes = _beside(
        node.allocatable.get("memory", 0.0) - others.get("memory", 0.0),
        devices * rules.gpu_memory_bytes,
    )
    slots = min(
        int(free_cores / (rules.cores_per_slot or rules.threads_per_slot) + _ROUNDING),
        free_bytes // rules.memory_bytes_per_slot,
        node.allocatable.get("pods", 110.0) - others.get("pods", 0.0),
    )
    return max(0, int(slots))


def _beside(free: float, needed: float) -> float:
    """Devices keep what they need, at most half; nothing where it can't do for them anyway."""
    return free if needed > free else max(free - needed, free / 2)


def _cpu_slots_beside_devices(node: NodeView, others: Mapping[str, float], rules: PoolRules) -> int:
    devices = sum(
        amount
        for name, amount in node.allocatable.items()
        if name == rules.gpu_resource or name.startswith(rules.mig_prefix)
    )
    only_ours = replace(rules, tolerated=())
    if not devices or not all(_is_tolerated(taint, node, only_ours) for taint in _taints(node)):
        return 0
    return _cpu_slots(node, others, rules, devices)


def _is_tolerated(taint: Taint, node: NodeView, rules: PoolRules) -> bool:
    if taint.key == DEDICATED:
        home = node.labels.get(HOME_LABEL, "")
        return is_dedicated_by(taint.value, home, rules.release, rules.home)
    return taint.effect == "PreferNoSchedule" or taint.key in rules.tolerated


def _is_in_use(resource: str, others: Mapping[str, float], rules: PoolRules) -> bool:
    """Whether pods that are not ours work in such slots. What runs on every node doesn't count."""
    if resource == CPU:
        return others.get(WORKLOADS, 0) > 0
    devices = (n for n in others if n == rules.gpu_resource or n.startswith(rules.mig_prefix))
    return any(others[name] > 0 for name in devices)


def _taints(node: NodeView) -> Iterable[Taint]:
    """Taints that say more than the node's state, which its own fields tell."""
    return (t for t in node.taints if not t.key.startswith("node.kubernetes.io/"))


def _pool(
    pool_id: str,
    resource: str,
    members: Sequence["_Member"],
    rules: PoolRules,
    now: datetime,
) -> Pool:
    away = sum(not member.node.ready for member in members)
    together = len(members) > 1 and 2 * away > len(members)
    nodes = [
        Node(
            name=member.node.name,
            slot_count=member.slot_count,
            state=_state(member.node, together, rules, now),
            in_use_by_others=member.in_use_by_others,
        )
        for member in members
    ]
    declared = rules.declared.get(pool_id)
    if declared is not None and declared.resource == resource:
        nodes += _expected(declared, len(members))
    selector = _common_label([member.node for member in members])
    products = Counter(node.labels.get(PRODUCT_LABEL, "") for node, *_ in members)
    return _made(pool_id, resource, products.most_common(1)[0][0], nodes, rules, selector)


def _empty(pool_id: str, declared: DeclaredPool, rules: PoolRules) -> Pool:
    selector = tuple(sorted(declared.node_labels.items())) or ((POOL_LABELS[0], pool_id),)
    nodes = _expected(declared, 0)
    return _made(pool_id, declared.resource, declared.product, nodes, rules, selector)


def _common_label(nodes: Sequence[NodeView]) -> tuple[tuple[str, str], ...]:
    """The label that makes them a pool, if it is the same one."""
    labels = {
        next(((key, node.labels[key]) for key in POOL_LABELS if node.labels.get(key)), None)
        for node in nodes
    }
    [only] = labels if len(labels) == 1 else [None]
    return () if only is None else (only,)


def _expected(declared: DeclaredPool, there: int) -> list[Node]:
    return [
        Node(name=f"+{n}", slot_count=declared.node_slots, expected=True)
        for n in range(1, declared.most_nodes - there + 1)
    ]


def _made(
    pool_id: str,
    resource: str,
    product: str,
    nodes: Sequence[Node],
    rules: PoolRules,
    selector: tuple[tuple[str, str], ...],
) -> Pool:
    name = f"{pool_id}-{resource}" if resource.startswith(MIG_PREFIX) else pool_id
    on_cpu = resource == CPU
    return Pool(
        name=PoolName(name),
        nodes=tuple(nodes),
        kind=PoolKind.NODES,
        resource=resource,
        product="" if on_cpu else product,
        threads_per_slot=rules.threads_per_slot if on_cpu else rules.gpu_threads,
        cores_per_slot=rules.cores_per_slot if on_cpu else 0.0,
        memory_bytes_per_slot=rules.memory_bytes_per_slot if on_cpu else rules.gpu_memory_bytes,
        price_per_slot_hour=rules.prices.get(name, rules.prices.get(pool_id, 0.0)),
        selector=selector,
    )


def _state(node: NodeView, together: bool, rules: PoolRules, now: datetime) -> NodeState:
    """`together`: most of its pool is not ready, so that the fault is rather between us."""
    if not node.ready:
        gone_s = (now - node.ready_since).total_seconds()
        return NodeState.LOST if gone_s >= rules.lost_after_s and not together else NodeState.AWAY
    return NodeState.CORDONED if node.cordoned else NodeState.OPEN
