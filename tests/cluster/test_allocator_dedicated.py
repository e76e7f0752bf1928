"""Tenants that have nodes alone, on a real control plane with fake nodes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    HELD,
    AllocatorProcess,
    Controller,
    Kube,
    allocator,
    until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
KEY = "allotment.dev/dedicated"


@pytest.fixture
def running_allocator(kube: Kube, tmp_path: Path) -> Iterator[AllocatorProcess]:
    """One that may mark nodes."""
    with allocator(
        tmp_path,
        ALLOTMENT_CLUSTER_DEDICATED_NODES="true",
        ALLOTMENT_ALLOCATOR_MINIMUM_RUNTIME_S="1",
        ALLOTMENT_ALLOCATOR_REVOKE_GRACE_S="2",
    ) as running:
        yield running


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


def marks(kube: Kube, pool: str) -> dict[str, str]:
    """Of the pool's nodes that have one: the taint, which is the label too."""
    found = {}
    for node in kube.get("nodes", "-l", f"allotment.dev/pool={pool}"):
        taints = [t for t in node["spec"].get("taints", ()) if t["key"] == KEY]
        label = node["metadata"]["labels"].get(KEY)
        assert [t["value"] for t in taints] == ([label] if label else []), node["metadata"]
        if label:
            found[node["metadata"]["name"]] = label
    return found


async def test_a_node_carries_the_mark_exactly_while_its_tenant_has_it(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    release = running_allocator.release
    await controller.create_tenant("acme", isolation=pb.ISOLATION_DEDICATED)
    await controller.create_tenant("beta")
    [shared] = await controller.ask("beta", shape=gpus(gpu_pool))
    await controller.until(lambda: controller.leases[shared].state == HELD)
    alone = await controller.ask("acme", count=2, shape=gpus(gpu_pool))
    await controller.until(lambda: len(controller.held("acme")) == 2)
    await until(lambda: len(kube.pods(release, "Running")) == 3)
    node = controller.leases[alone[0]].node
    assert node == controller.leases[alone[1]].node != controller.leases[shared].node
    assert marks(kube, gpu_pool) == {node: f"{release}.acme"}
    beside = await controller.ask("beta", count=6, shape=gpus(gpu_pool))
    await controller.until(lambda: len(controller.held("beta")) == 4)
    assert {lease.node for lease in controller.held("beta")} == {controller.leases[shared].node}
    running_allocator.kill()
    running_allocator.start()
    await asyncio.sleep(2)
    assert marks(kube, gpu_pool) == {node: f"{release}.acme"}
    await controller.release(alone[0])
    await asyncio.sleep(2)
    assert marks(kube, gpu_pool) == {node: f"{release}.acme"}
    await controller.release(alone[1])
    await until(lambda: not [p for p in kube.pods(release) if "acme" in p["metadata"]["namespace"]])
    gone_at = time.monotonic()
    await until(lambda: marks(kube, gpu_pool) == {})
    assert time.monotonic() - gone_at < 2.0
    await controller.until(lambda: len(controller.held("beta")) == 7)
    assert beside


async def test_others_are_drained_before_the_first_pod_comes(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    release = running_allocator.release
    await controller.create_tenant("acme", isolation=pb.ISOLATION_DEDICATED)
    await controller.create_tenant("beta")
    await controller.ask("beta", count=8, shape=gpus(gpu_pool))
    await controller.until(lambda: len(controller.held("beta")) == 8)
    await until(lambda: len(kube.pods(release, "Running")) == 8)
    [wanted] = await controller.ask("acme", slots=2, shape=gpus(gpu_pool))
    await controller.until(lambda: controller.leases[wanted].state == HELD, limit_s=60)
    node = controller.leases[wanted].node
    assert {lease.node for lease in controller.held("beta")} == {
        n["metadata"]["name"] for n in kube.get("nodes", "-l", f"allotment.dev/pool={gpu_pool}")
    } - {node}

    def on_node() -> set[str]:
        return {
            pod["metadata"]["labels"]["allotment.dev/tenant"]
            for pod in kube.pods(release)
            if pod["spec"].get("nodeName") == node
        }

    await until(lambda: on_node() == {"acme"})
    assert marks(kube, gpu_pool) == {node: f"{release}.acme"}


async def test_a_node_where_pods_of_others_use_gpus_is_not_taken(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"foreign-{gpu_pool}", "namespace": "default"},
        "spec": {
            "nodeName": f"{gpu_pool}-0",
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "c",
                    "image": "x",
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        },
    }
    kube.apply(foreign)
    try:
        await asyncio.sleep(1)
        await controller.create_tenant("acme", isolation=pb.ISOLATION_DEDICATED)
        names = await controller.ask("acme", count=5, shape=gpus(gpu_pool))
        await controller.until(lambda: len(controller.held("acme")) == 4)
        await asyncio.sleep(2)
        assert {lease.node for lease in controller.held("acme")} == {f"{gpu_pool}-1"}
        [waits] = [controller.leases[n] for n in names if controller.leases[n].state != HELD]
        assert "could have alone" in waits.wait.message
        assert set(marks(kube, gpu_pool)) == {f"{gpu_pool}-1"}
    finally:
        kube.run("delete", "pod", f"foreign-{gpu_pool}", "-n", "default", "--force", check=False)
