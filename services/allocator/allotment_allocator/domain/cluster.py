"""Pools made of a cluster's nodes: a pure function of what the cluster says.

Nodes are grouped by a label, Allotment's own first, then those that managed clusters put there. The
slots of a GPU node are its devices, or the slices of one MIG profile; the slots of other nodes are
so many threads and so much memory each. What other pods use is not ours.
"""

import hashlib
import math
import re
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
_FOR_DEVICES = 0.9
"""Of a node's cores and memory; the rest is for what the cluster runs on every node."""
_SHARED = 0.5
"""The same where the node has CPU slots as well."""


class _Kind(NamedTuple):
    """What nodes of one pool have in common."""

    label: str
    resource: str
    product: str


class _Member(NamedTuple):
    """A node in a pool."""

    node: NodeView
    devices: int
    """Those that nobody else uses."""
    in_use_by_others: bool
    others: Mapping[str, float]


class _Share(NamedTuple):
    """What a trainer has for each slot."""

    threads: int
    cores: float
    memory_bytes: int


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
    """Cores, threads and memory that a trainer has beside each GPU or slice, at most: no more than
    its part of nine tenths of a node.
    """
    gpu_memory_bytes: int = 16 << 30
    prices: Mapping[str, float] = field(default_factory=dict)
    """Per slot and hour, by pool."""
    declared: Mapping[str, DeclaredPool] = field(default_factory=dict)
    tolerated: tuple[str, ...] = ("nvidia.com/gpu",)
    """Keys of taints that trainers with devices tolerate, beside that of nodes kept by the own
    release.
    """
    tolerated_by_all: tuple[str, ...] = ()
    """Those that all trainers tolerate."""
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
    groups: dict[_Kind, list[_Member]] = {}
    on_devices: dict[_Kind, list[_Member]] = {}
    for node in sorted(nodes, key=lambda each: each.name):
        others = used_by_others.get(node.name, {})
        devices = _devices(node, others, rules)
        in_use = _is_in_use(CPU, others, rules)
        label, product = pool_of(node), node.labels.get(PRODUCT_LABEL, "")
        if _is_open_to(node, rules, rules.tolerated):
            for resource, count in devices.items():
                member = _Member(node, count, _is_in_use(resource, others, rules), others)
                groups.setdefault(_Kind(label, resource, product), []).append(member)
        if _is_open_to(node, rules, rules.tolerated_by_all):
            cpus = on_devices if devices else groups
            member = _Member(node, 0, in_use, others)
            cpus.setdefault(_Kind(label, CPU, ""), []).append(member)
    plain = any(kind.resource == CPU for kind in groups) or any(
        declared.resource == CPU for declared in rules.declared.values()
    )
    shared = set() if plain else {m.node.name for each in on_devices.values() for m in each}
    pools = []
    for kind, name in _names(groups).items():
        part = _SHARED if any(m.node.name in shared for m in groups[kind]) else _FOR_DEVICES
        pools.append(_pool(name, kind, groups[kind], rules, now, held, part))
    for kind, members in on_devices.items():
        name = f"{kind.label}{BESIDE}"
        if plain:
            there = [m for m in members if Place(PoolName(name), m.node.name) in held]
            members = [m._replace(node=replace(m.node, cordoned=True)) for m in there]
        if members:
            pools.append(_pool(name, kind, members, rules, now, held, _SHARED))
    named = {pool.name.pool_id for pool in pools}
    for pool_id, declared in rules.declared.items():
        if pool_id not in named:
            pools.append(_empty(pool_id, declared, rules, held))
    return tuple(sorted(pools, key=lambda pool: pool.name.pool_id))


def _names(kinds: Iterable[_Kind]) -> dict[_Kind, str]:
    """The label alone, where no other kind of slots has the same one.

    Nodes without a label are `default`, those with devices `default-gpu`, so that the first GPU in
    such a cluster does not rename what is there.
    """
    sorted_kinds = sorted(kinds)
    products = {(kind.label, kind.resource): 0 for kind in sorted_kinds}
    for kind in sorted_kinds:
        products[kind.label, kind.resource] += 1
    with_devices = {kind.label for kind in sorted_kinds if kind.resource != CPU}
    names: dict[_Kind, str] = {}
    for kind in sorted_kinds:
        name = kind.label
        if kind.resource.startswith(MIG_PREFIX):
            name = f"{name}-{kind.resource}"
        elif kind.resource == CPU and name != UNLABELLED and name in with_devices:
            name = f"{name}{BESIDE}"
        elif kind.resource != CPU and name == UNLABELLED:
            name = f"{name}-{GPU}"
        if products[kind.label, kind.resource] > 1 and kind.product:
            name = f"{name}-{_word(kind.product)}"
        while name in names.values():
            name = f"{name[:60]}-2"
        names[kind] = name[:63].rstrip("-._")
    return names


def pool_of(node: NodeView) -> str:
    """The id of the pool that a node belongs to."""
    label = next((node.labels[key] for key in POOL_LABELS if node.labels.get(key)), UNLABELLED)
    return _word(label) or UNLABELLED


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40].rstrip("-._")


def _devices(node: NodeView, others: Mapping[str, float], rules: PoolRules) -> dict[str, int]:
    """Devices that others leave, by resource. A node without any has none of them."""
    return {
        resource: max(0, int(amount - others.get(name, 0)))
        for name, amount in node.allocatable.items()
        if amount > 0 and (resource := _resource(name, rules))
    }


def _resource(name: str, rules: PoolRules) -> str:
    """What the cluster calls so is a slot of this resource; empty: of none."""
    if name == rules.gpu_resource:
        return GPU
    sliced = name.startswith(rules.mig_prefix)
    return MIG_PREFIX + name.removeprefix(rules.mig_prefix) if sliced else ""


def _share(kind: _Kind, members: Sequence[_Member], rules: PoolRules, part: float) -> _Share:
    """For each slot of a pool: what the poorest of its nodes has for each device."""
    if kind.resource == CPU:
        cores = rules.cores_per_slot or rules.threads_per_slot
        return _Share(rules.threads_per_slot, cores, rules.memory_bytes_per_slot)
    cores, memory = float(rules.gpu_threads), rules.gpu_memory_bytes
    for member in members:
        there, count = member.node.allocatable, _device_count(member.node, rules)
        tenths = (
            int(10 * part * there.get("cpu", math.inf) / count) if "cpu" in there else cores * 10
        )
        cores = min(cores, max(1, tenths) / 10)
        if "memory" in there:
            memory = min(memory, max(1 << 28, int(part * there["memory"] / count) >> 20 << 20))
    return _Share(max(1, int(cores)), cores, memory)


def _slots(member: _Member, kind: _Kind, share: _Share, rules: PoolRules) -> int:
    """Slots of a node, out of what others leave of its cores and memory."""
    there, others = member.node.allocatable, member.others
    on_cpu = kind.resource == CPU
    nothing = 0.0 if on_cpu else math.inf
    cores = there.get("cpu", nothing) - others.get("cpu", 0.0)
    memory = there.get("memory", nothing) - others.get("memory", 0.0)
    if on_cpu:
        devices = _device_count(member.node, rules)
        cores = _beside(cores, devices * rules.gpu_threads)
        memory = _beside(memory, devices * rules.gpu_memory_bytes)
    slots = min(
        cores / share.cores + _ROUNDING,
        memory // share.memory_bytes,
        there.get("pods", 110.0) - others.get("pods", 0.0),
        math.inf if on_cpu else member.devices,
    )
    return max(0, int(slots))


def _beside(free: float, needed: float) -> float:
    """Devices keep what they need, at most half; nothing where it can't do for them anyway."""
    return free if needed > free else max(free - needed, free / 2)


def _device_count(node: NodeView, rules: PoolRules) -> float:
    there = node.allocatable.items()
    return sum(amount for name, amount in there if _resource(name, rules))


def _is_open_to(node: NodeView, rules: PoolRules, tolerated: Collection[str]) -> bool:
    """Whether trainers that tolerate these taints can go there."""
    return all(_is_tolerated(taint, node, rules, tolerated) for taint in _taints(node))


def _is_tolerated(
    taint: Taint, node: NodeView, rules: PoolRules, tolerated: Collection[str]
) -> bool:
    if taint.key == DEDICATED:
        home = node.labels.get(HOME_LABEL, "")
        return is_dedicated_by(taint.value, home, rules.release, rules.home)
    return taint.effect == "PreferNoSchedule" or taint.key in tolerated


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
    name: str,
    kind: _Kind,
    members: Sequence[_Member],
    rules: PoolRules,
    now: datetime,
    held: Collection[Place],
    part: float,
) -> Pool:
    away = sum(not member.node.ready for member in members)
    together = len(members) > 1 and 2 * away > len(members)
    share = _share(kind, members, rules, part)
    nodes = [
        Node(
            name=member.node.name,
            slot_count=_slots(member, kind, share, rules),
            state=_state(member.node, together, rules, now),
            in_use_by_others=member.in_use_by_others,
        )
        for member in members
    ]
    declared = rules.declared.get(name)
    if declared is not None and declared.resource == kind.resource:
        nodes += _expected(name, declared, len(members), held)
    selector = _common_label([member.node for member in members])
    return _made(name, kind, nodes, rules, share, selector)


def _empty(name: str, declared: DeclaredPool, rules: PoolRules, held: Collection[Place]) -> Pool:
    selector = tuple(sorted(declared.node_labels.items())) or ((POOL_LABELS[0], name),)
    nodes = _expected(name, declared, 0, held)
    kind = _Kind(name, declared.resource, declared.product)
    return _made(name, kind, nodes, rules, _share(kind, (), rules, _FOR_DEVICES), selector)


def _common_label(nodes: Sequence[NodeView]) -> tuple[tuple[str, str], ...]:
    """The label that makes them a pool, if it is the same one."""
    labels = {
        next(((key, node.labels[key]) for key in POOL_LABELS if node.labels.get(key)), None)
        for node in nodes
    }
    [only] = labels if len(labels) == 1 else [None]
    return () if only is None else (only,)


def _expected(name: str, declared: DeclaredPool, there: int, held: Collection[Place]) -> list[Node]:
    """Nodes that may still come. One that a lease waits for stays until its trainer is somewhere,
    but takes no more: the node that came for it is among those that are there already.
    """
    pool = PoolName(name)
    awaited = {place.node for place in held if place.pool == pool and place.is_expected}
    most = declared.most_nodes - there
    return [
        Node(
            name=f"+{n}",
            slot_count=declared.node_slots,
            state=NodeState.OPEN if n <= most else NodeState.AWAY,
            expected=True,
        )
        for n in range(1, declared.most_nodes + 1)
        if n <= most or f"+{n}" in awaited
    ]


def _made(
    name: str,
    kind: _Kind,
    nodes: Sequence[Node],
    rules: PoolRules,
    share: _Share,
    selector: tuple[tuple[str, str], ...],
) -> Pool:
    return Pool(
        name=PoolName(name),
        nodes=tuple(nodes),
        kind=PoolKind.NODES,
        resource=kind.resource,
        product="" if kind.resource == CPU else kind.product,
        threads_per_slot=share.threads,
        cores_per_slot=share.cores,
        memory_bytes_per_slot=share.memory_bytes,
        price_per_slot_hour=rules.prices.get(name, rules.prices.get(kind.label, 0.0)),
        selector=selector,
    )


def _state(node: NodeView, together: bool, rules: PoolRules, now: datetime) -> NodeState:
    """`together`: most of its pool is not ready, so that the fault is rather between us."""
    if not node.ready:
        gone_s = (now - node.ready_since).total_seconds()
        return NodeState.LOST if gone_s >= rules.lost_after_s and not together else NodeState.AWAY
    return NodeState.CORDONED if node.cordoned else NodeState.OPEN
