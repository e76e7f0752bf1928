"""The allocator on a real control plane: what happens to nodes happens to leases."""

import asyncio

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import HELD, AllocatorProcess, Controller, Kube, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


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
    await controller.until(
        lambda: all(
            controller.leases[name].node != gone and controller.leases[name].epoch > 1
            for name in names
        ),
        limit_s=5,
    )
    await asyncio.sleep(0)
    assert {controller.leases[name].state for name in names} == {HELD}
