"""The allocator on a real control plane: what happens to nodes happens to leases."""

import asyncio
import json
from pathlib import Path

import grpc.aio
import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    ENDED,
    HELD,
    AllocatorProcess,
    Controller,
    Kube,
    allocator,
    controller_of,
    until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

BROKEN = "test.allotment.dev/broken=1"
LOST_AFTER_S = 8


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


async def conditions(controller: Controller, pool: str) -> dict[str, int]:
    """States of a pool's nodes, by their names."""
    request = pb.ListNodesRequest(parent=f"pools/{pool}")
    try:
        nodes = (await controller.pools.ListNodes(request)).nodes
    except grpc.aio.AioRpcError as e:
        if e.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return {}
    return {node.name.rpartition("/")[2]: node.state for node in nodes}


async def test_a_lease_becomes_a_running_pod_on_the_node_of_its_grant(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    [name] = await controller.ask("acme", slots=3, shape=gpus(gpu_pool))
    await controller.until(lambda: controller.leases[name].state == HELD)
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 1)
    [pod] = kube.pods(release)
    assert pod["metadata"]["namespace"] == f"{release}-acme"
    assert pod["spec"]["nodeName"] == controller.leases[name].node
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "3"
    await controller.release(name)
    await until(lambda: not kube.jobs(release) and not kube.pods(release))


async def test_the_leases_of_a_deleted_node_go_on_elsewhere_at_once_with_the_next_epoch(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    names = await controller.ask("acme", count=2, shape=gpus(gpu_pool))
    await controller.until(lambda: len(controller.held()) == 2)
    gone = controller.leases[names[0]].node
    assert controller.leases[names[1]].node == gone
    await until(lambda: len(kube.pods(running_allocator.release, "Running")) == 2)
    kube.delete_node(gone)

    def went_on(name: str) -> bool:
        lease = controller.leases[name]
        return lease.state == HELD and lease.node != gone and lease.epoch > 1

    await controller.until(lambda: all(map(went_on, names)), limit_s=5)
    left = controller.leases[names[0]].node
    await until(lambda: _nodes_of(kube, running_allocator) == [left, left], limit_s=15)


def _nodes_of(kube: Kube, running: AllocatorProcess) -> list[str]:
    return [p["spec"].get("nodeName", "") for p in kube.pods(running.release, "Running")]


async def test_a_cordoned_nodes_leases_leave_once_there_is_room_and_no_sooner(
    kube: Kube, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    names = await controller.ask("acme", slots=4, count=2, shape=gpus(gpu_pool))
    await controller.until(lambda: len(controller.held()) == 2)
    moving, staying = (controller.leases[name] for name in names)
    kube.run("cordon", moving.node)
    await until(lambda: _is(controller, gpu_pool, moving.node, pb.NODE_CONDITION_CORDONED))
    await asyncio.sleep(3)
    assert controller.leases[moving.name].state == HELD
    await controller.release(staying.name)
    await controller.until(lambda: controller.leases[moving.name].state in ENDED, limit_s=20)
    assert controller.leases[moving.name].problem.reason == "REVOKED_NODE_DRAINED"
    [again] = await controller.ask("acme", slots=4, shape=gpus(gpu_pool))
    await controller.until(lambda: controller.leases[again].state == HELD)
    assert controller.leases[again].node == staying.node


async def _is(controller: Controller, pool: str, node: str, state: int) -> bool:
    return (await conditions(controller, pool)).get(node) == state


async def test_a_node_that_is_not_ready_gets_nothing_and_loses_its_leases_after_a_while(
    kube: Kube, gpu_pool: str, tmp_path: Path
) -> None:
    kube.fake_node(f"{gpu_pool}-2", gpu_pool, gpus=4)
    settings = {"ALLOTMENT_CLUSTER_LOST_AFTER_S": str(LOST_AFTER_S)}
    with allocator(tmp_path, **settings) as running:
        async with controller_of(running) as controller:
            await controller.create_tenant("acme")
            names = await controller.ask("acme", slots=4, count=3, shape=gpus(gpu_pool))
            await controller.until(lambda: len(controller.held()) == 3)
            broken = controller.leases[names[0]].node
            kube.run("annotate", "node", broken, BROKEN)
            await until(lambda: _is(controller, gpu_pool, broken, pb.NODE_CONDITION_AWAY))
            [more] = await controller.ask("acme", shape=gpus(gpu_pool))
            await asyncio.sleep(LOST_AFTER_S / 2)
            assert controller.leases[names[0]].state == HELD
            assert controller.leases[more].state == pb.LEASE_STATE_QUEUED
            await controller.until(lambda: controller.leases[names[0]].state in ENDED, limit_s=20)
            assert controller.leases[names[0]].problem.reason == "REVOKED_NODE_LOST"
            assert [controller.leases[name].state for name in names[1:]] == [HELD, HELD]


async def test_nothing_is_revoked_when_most_of_a_pool_is_not_ready_together(
    kube: Kube, gpu_pool: str, tmp_path: Path
) -> None:
    settings = {"ALLOTMENT_CLUSTER_LOST_AFTER_S": "2"}
    with allocator(tmp_path, **settings) as running:
        async with controller_of(running) as controller:
            await controller.create_tenant("acme")
            await controller.ask("acme", slots=4, count=2, shape=gpus(gpu_pool))
            await controller.until(lambda: len(controller.held()) == 2)
            kube.run("annotate", "nodes", "-l", f"allotment.dev/pool={gpu_pool}", BROKEN)
            away = pb.NODE_CONDITION_AWAY
            await until(lambda: _all_are(controller, gpu_pool, away))
            await asyncio.sleep(5)
            assert await _all_are(controller, gpu_pool, away)
            held = controller.held()
            assert [(lease.state, lease.epoch) for lease in held] == [(HELD, 1), (HELD, 1)]


async def _all_are(controller: Controller, pool: str, state: int) -> bool:
    return set((await conditions(controller, pool)).values()) == {state}


async def test_a_pool_without_nodes_is_asked_for_and_the_lease_is_where_its_node_comes(
    kube: Kube, gpu_pool: str, tmp_path: Path
) -> None:
    pool = f"{gpu_pool}x"
    pools = json.dumps({pool: {"max_nodes": 1, "slots_per_node": 4, "price_per_slot_hour": 2.5}})
    try:
        with allocator(tmp_path, ALLOTMENT_CLUSTER_POOLS=pools) as running:
            async with controller_of(running) as controller:
                assert await conditions(controller, pool) == {"+1": pb.NODE_CONDITION_EXPECTED}
                await controller.create_tenant("acme")
                names = await controller.ask("acme", slots=2, count=2, shape=gpus(pool))
                await controller.until(
                    lambda: {x.wait.reason for x in controller.held()} == {"UNSCHEDULABLE"}
                )
                kube.fake_node(f"{pool}-0", pool, gpus=4)
                await controller.until(
                    lambda: {x.node for x in controller.held()} == {f"{pool}-0"}, limit_s=20
                )
                await until(lambda: len(kube.pods(running.release, "Running")) == 2)
                await until(lambda: _all_are(controller, pool, pb.NODE_CONDITION_OPEN))
                assert [controller.leases[n].epoch for n in names] == [1, 1]
    finally:
        kube.delete_node(f"{pool}-0")


async def test_trials_without_gpus_run_where_there_are_none(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    pool = f"{gpu_pool}c"
    kube.fake_node(f"{pool}-0", pool, gpus=0)
    try:
        await controller.create_tenant("acme")
        await until(lambda: _is(controller, pool, f"{pool}-0", pb.NODE_CONDITION_OPEN))
        [name] = await controller.ask("acme", shape=pb.Shape(pool=f"pools/{pool}"))
        await controller.until(lambda: controller.leases[name].state == HELD)
        await until(lambda: len(kube.pods(running_allocator.release, "Running")) == 1)
        [pod] = kube.pods(running_allocator.release)
        assert pod["spec"]["nodeName"] == f"{pool}-0"
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        assert set(limits) == {"cpu", "memory"}
    finally:
        kube.delete_node(f"{pool}-0")
