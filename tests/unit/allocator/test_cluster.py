"""Pools out of a cluster's nodes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from allotment_allocator.domain.cluster import (
    POOL_LABELS,
    DeclaredPool,
    NodeView,
    PoolRules,
    Taint,
    dedicated_to,
    is_dedicated_by,
    make_pools,
)
from allotment_allocator.domain.pool import CPU, GPU, NodeState, Place, Pool
from allotment_core.names import PoolName, TenantName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU_TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")


def gpu_node(name: str, pool: str = "h100", gpus: float = 8, **more: object) -> NodeView:
    node = NodeView(
        name=name,
        labels={"allotment.dev/pool": pool, "nvidia.com/gpu.product": "H100"},
        allocatable={"cpu": 64, "memory": 512 << 30, "nvidia.com/gpu": gpus},
        ready=True,
        ready_since=NOW - timedelta(hours=1),
        taints=(GPU_TAINT,),
    )
    return replace(node, **more)  # type: ignore[arg-type]


def cpu_node(name: str, cores: float = 8, **more: object) -> NodeView:
    node = NodeView(
        name=name,
        labels={},
        allocatable={"cpu": cores, "memory": 16 << 30, "pods": 110},
        ready=True,
        ready_since=NOW - timedelta(hours=1),
    )
    return replace(node, **more)  # type: ignore[arg-type]


def made(
    *nodes: NodeView, rules: PoolRules | None = None, **used: dict[str, float]
) -> dict[str, Pool]:
    pools = make_pools(nodes, used, rules or PoolRules(), NOW)
    return {pool.name.pool_id: pool for pool in pools}


@pytest.mark.parametrize("label", POOL_LABELS)
def test_pools_are_known_by_the_labels_of_managed_clusters(label: str) -> None:
    node = gpu_node("a", labels={label: "big"})
    assert list(made(node)) == ["big"]


def test_our_own_label_goes_before_the_others() -> None:
    node = gpu_node("a", labels={label: f"p{n}" for n, label in enumerate(POOL_LABELS)})
    assert list(made(node)) == ["p0"]


def test_what_other_pods_use_is_not_ours() -> None:
    pool = made(gpu_node("a"), gpu_node("b"), a={"nvidia.com/gpu": 3})["h100"]
    assert [(n.name, n.slot_count) for n in pool.nodes] == [("a", 5), ("b", 8)]
    assert (pool.resource, pool.product) == (GPU, "H100")


def test_slots_of_cpu_nodes_are_bound_by_cores_and_memory() -> None:
    rules = PoolRules(threads_per_slot=2, memory_bytes_per_slot=4 << 30)
    pool = made(cpu_node("a"), cpu_node("b"), rules=rules, b={"memory": 9 << 30})["default"]
    assert pool.resource == CPU
    assert [node.slot_count for node in pool.nodes] == [4, 1]


def test_slots_may_be_parts_of_a_core() -> None:
    rules = PoolRules(cores_per_slot=0.1, memory_bytes_per_slot=1 << 20)
    pool = made(cpu_node("a", cores=0.3), rules=rules)["default"]
    assert [node.slot_count for node in pool.nodes] == [3]
    assert (pool.cores_per_slot, pool.threads_per_slot) == (0.1, 1)


def test_tainted_nodes_are_left_to_those_they_are_meant_for() -> None:
    taint = Taint("team", "other", "NoSchedule")
    assert made(cpu_node("a", taints=(taint,))) == {}
    assert made(gpu_node("a", taints=(GPU_TAINT, taint))) == {}
    assert made(cpu_node("a", taints=(replace_effect(taint),)))["default"].slot_count == 8


def replace_effect(taint: Taint) -> Taint:
    return Taint(taint.key, taint.value, "PreferNoSchedule")


def open_gpu_node(name: str, cores: float = 8.0) -> NodeView:
    allocatable = {"nvidia.com/gpu": 2.0, "cpu": cores, "memory": float(64 << 30), "pods": 110.0}
    return gpu_node(name, taints=(), allocatable=allocatable)


def test_a_cluster_of_gpu_nodes_alone_has_cpu_slots_beside_the_devices() -> None:
    pools = made(open_gpu_node("a"), gpu_node("tainted"))
    assert pools["h100"].slot_count == 10
    assert [n.name for n in pools["h100-cpu"].nodes] == ["a"]
    assert pools["h100-cpu"].resource == CPU


@pytest.mark.parametrize(("cores", "slots"), [(16.0, 8), (10.0, 5), (8.0, 4), (4.0, 4)])
def test_devices_keep_what_they_need_at_most_half_and_nothing_in_vain(
    cores: float, slots: int
) -> None:
    assert made(open_gpu_node("a", cores))["h100-cpu"].slot_count == slots


def test_cpu_slots_beside_devices_end_where_other_nodes_have_some() -> None:
    nodes = (open_gpu_node("a"), cpu_node("b"))
    assert set(made(*nodes)) == {"h100", "default"}
    held = [Place(PoolName("h100-cpu"), "a")]
    pools = {p.name.pool_id: p for p in make_pools(nodes, {}, PoolRules(), NOW, held)}
    assert [n.state for n in pools["h100-cpu"].nodes] == [NodeState.CORDONED]


def test_slices_of_a_device_are_a_pool_of_their_own() -> None:
    node = gpu_node("a", allocatable={"nvidia.com/gpu": 0, "nvidia.com/mig-1g.10gb": 14})
    assert made(node)["h100-mig-1g.10gb"].resource == "mig-1g.10gb"


def test_a_pool_that_has_no_node_yet_can_be_waited_for() -> None:
    declared = DeclaredPool(most_nodes=3, node_slots=4, product="L4")
    rules = PoolRules(declared={"l4": declared})
    empty = made(rules=rules)["l4"]
    assert (empty.slot_count, len(empty.nodes), empty.product) == (12, 3, "L4")
    one = made(gpu_node("a", pool="l4", gpus=4), rules=rules)["l4"]
    assert [node.expected for node in one.nodes] == [False, True, True]


def test_a_node_is_away_at_once_and_lost_after_a_while() -> None:
    def state(seconds: float, *others: NodeView) -> NodeState:
        gone = gpu_node("a", ready=False, ready_since=NOW - timedelta(seconds=seconds))
        return made(gone, *others)["h100"].nodes[0].state

    well = gpu_node("b")
    assert state(5, well) is NodeState.AWAY
    assert state(41, well) is NodeState.LOST
    assert state(41) is NodeState.LOST


def test_most_of_a_pool_is_never_lost_at_once() -> None:
    gone = [
        gpu_node(name, ready=False, ready_since=NOW - timedelta(minutes=5)) for name in ("a", "b")
    ]
    states = [node.state for node in made(*gone, gpu_node("c"))["h100"].nodes]
    assert states == [NodeState.AWAY, NodeState.AWAY, NodeState.OPEN]


def test_a_cordoned_node_is_said_to_be() -> None:
    assert made(gpu_node("a", cordoned=True))["h100"].nodes[0].state is NodeState.CORDONED


def test_odd_labels_make_valid_names() -> None:
    node = gpu_node("a", labels={"agentpool": "/my pool/…"})
    assert list(made(node)) == ["my-pool"]


def test_prices_are_per_pool() -> None:
    assert (
        made(gpu_node("a"), rules=PoolRules(prices={"h100": 2.5}))["h100"].price_per_slot_hour
        == 2.5
    )


RULES_OF_R = PoolRules(release="r", home="ns")


@pytest.mark.parametrize(
    ("value", "home", "usable"),
    [("r.acme", "ns", True), ("other.acme", "ns", False), ("r.acme", "elsewhere", False)],
)
def test_nodes_that_another_release_keeps_are_none_of_ours(
    value: str, home: str, usable: bool
) -> None:
    node = gpu_node("a")
    kept = replace(
        node,
        labels={**node.labels, "allotment.dev/home": home},
        taints=(GPU_TAINT, Taint("allotment.dev/dedicated", value, "NoSchedule")),
    )
    assert bool(made(kept, rules=RULES_OF_R)) is usable


def test_nodes_where_others_use_such_slots_are_known() -> None:
    others: dict[str, dict[str, float]] = {
        "a": {"nvidia.com/gpu": 1, "workloads": 1},
        "b": {"cpu": 1, "workloads": 1},
        "c": {"cpu": 1, "workloads": 1},
        "d": {"cpu": 1, "workloads": 0},
    }
    nodes = gpu_node("a"), gpu_node("b"), cpu_node("c"), cpu_node("d")
    pools = {p.name: p for p in make_pools(nodes, others, PoolRules(), NOW)}
    in_use = {n.name: n.in_use_by_others for pool in pools.values() for n in pool.nodes}
    assert in_use == {"a": True, "b": False, "c": True, "d": False}


def test_a_pools_nodes_are_chosen_by_the_label_that_they_share() -> None:
    assert made(gpu_node("a"))["h100"].selector == (("allotment.dev/pool", "h100"),)
    assert made(cpu_node("a"))["default"].selector == ()
    declared = PoolRules(
        declared={"big": DeclaredPool(most_nodes=1, node_slots=8, node_labels={"x": "y"})}
    )
    assert made(rules=declared)["big"].selector == (("x", "y"),)


def test_marks_are_valid_and_differ_however_long_their_tenants_names_are() -> None:
    long, other = TenantName("a" * 62 + "b"), TenantName("a" * 62 + "c")
    marks = {dedicated_to("r" * 40, tenant) for tenant in (long, other)}
    assert len(marks) == 2
    assert all(len(m) <= 63 and is_dedicated_by(m, "ns", "r" * 40, "ns") for m in marks)


def labelled(pool: str) -> NodeView:
    return cpu_node("a", labels={"allotment.dev/pool": pool})


def test_slots_of_two_kinds_are_two_pools_whatever_their_labels() -> None:
    unlabelled = made(cpu_node("a"), gpu_node("b", labels={}))
    assert {name: pool.resource for name, pool in unlabelled.items()} == {
        "default": CPU,
        "default-gpu": GPU,
    }
    mixed = made(labelled("big"), gpu_node("b", pool="big"))
    assert {name: pool.resource for name, pool in mixed.items()} == {"big": GPU, "big-cpu": CPU}


def test_a_first_gpu_does_not_rename_the_pool_of_nodes_without_a_label() -> None:
    before = made(cpu_node("a"))
    after = made(cpu_node("a"), gpu_node("b", labels={}))
    assert before["default"] == after["default"]


def test_devices_of_two_products_are_two_pools() -> None:
    other = {"allotment.dev/pool": "h100", "nvidia.com/gpu.product": "Tesla T4"}
    pools = made(gpu_node("a"), gpu_node("b", labels=other))
    assert {name: pool.product for name, pool in pools.items()} == {
        "h100-H100": "H100",
        "h100-Tesla-T4": "Tesla T4",
    }


def small_gpu_node(name: str) -> NodeView:
    allocatable = {"nvidia.com/gpu": 1.0, "cpu": 3.92, "memory": 15.0 * (1 << 30)}
    return gpu_node(name, allocatable=allocatable)


def test_a_small_node_gives_its_device_what_it_has() -> None:
    pool = made(small_gpu_node("a"), gpu_node("c", pool="other"))["h100"]
    assert pool.slot_count == 1
    assert (pool.threads_per_slot, pool.cores_per_slot) == (3, 3.5)
    assert 13 << 30 <= pool.memory_bytes_per_slot < 14 << 30


def test_a_device_that_a_node_has_no_cores_for_is_no_slot() -> None:
    node = gpu_node(
        "a", allocatable={"nvidia.com/gpu": 8.0, "cpu": 64.0, "memory": 512.0 * (1 << 30)}
    )
    pool = made(node, a={"cpu": 40.0})["h100"]
    assert (pool.cores_per_slot, pool.slot_count) == (4.0, 6)


def test_only_trainers_with_devices_go_to_nodes_that_are_tainted_for_them() -> None:
    waiting_for_its_driver = cpu_node("a", taints=(GPU_TAINT,))
    assert made(waiting_for_its_driver) == {}


def test_taints_that_trainers_tolerate_by_order_are_none() -> None:
    taint = Taint("team", "ml", "NoSchedule")
    rules = PoolRules(tolerated=("nvidia.com/gpu", "team"), tolerated_by_all=("team",))
    assert made(cpu_node("a", taints=(taint,)), rules=rules)["default"].slot_count == 8
    assert made(gpu_node("a", taints=(GPU_TAINT, taint)), rules=rules)["h100"].slot_count == 8


def test_a_node_that_a_lease_waits_for_stays_expected_when_another_has_come() -> None:
    rules = PoolRules(declared={"h100": DeclaredPool(most_nodes=1, node_slots=8)})
    place = Place(PoolName("h100"), "+1")
    [pool] = make_pools([gpu_node("a")], {}, rules, NOW, held=[place])
    assert [(n.name, n.state) for n in pool.nodes] == [
        ("a", NodeState.OPEN),
        ("+1", NodeState.AWAY),
    ]
    [pool] = make_pools([gpu_node("a")], {}, rules, NOW)
    assert [node.name for node in pool.nodes] == ["a"]
