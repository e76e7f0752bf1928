"""Who gets what of two pools when more is wanted than there is, with real pods."""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    HELD,
    REVOKING,
    AllocatorProcess,
    Controller,
    Json,
    Kube,
    until,
)
from allotment_testkit.cluster_trouble import all_leases, gpus_of_nodes, over_capacity

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

GRACE_S = 10.0
"""What a lease has that is taken back, and is not given up."""


@pytest.fixture
def two_pools(kube: Kube) -> Iterator[tuple[str, str]]:
    """Two fake nodes of 8 GPUs each in one pool, one in the other."""
    first = f"p{uuid.uuid4().hex[:6]}"
    second = f"{first}b"
    if not kube.get("nodes", "-l", "type=kwok"):
        pytest.skip("the cluster has no fake nodes (kwok)")
    kube.fake_nodes([f"{first}-{n}" for n in range(2)], first)
    kube.fake_nodes([f"{second}-0"], second)
    yield first, second
    for pool in (first, second):
        kube.run("delete", "nodes", "-l", f"allotment.dev/pool={pool}", "--wait=false")


def gpus(pool: str = "") -> pb.Shape:
    """In one pool, or in any of GPUs."""
    return pb.Shape(resource="gpu", pool=f"pools/{pool}" if pool else "")


async def held_by_tenant(controller: Controller, *pools: str) -> Counter[str]:
    """GPUs of leases that are not being taken back."""
    held: Counter[str] = Counter()
    for lease in await all_leases(controller):
        if lease.state == HELD and lease.pool.removeprefix("pools/") in pools:
            held[lease.name.split("/")[1]] += lease.slot_count
    return held


async def give_up(controller: Controller) -> None:
    """Leases that are taken back are released at once, as by trainers. Until cancelled."""
    while True:
        for lease in list(controller.leases.values()):
            if lease.state == REVOKING:
                await controller.release(lease.name)
        await asyncio.sleep(0.2)


async def test_three_tenants_get_their_shares_of_two_pools(
    kube: Kube,
    running_allocator: AllocatorProcess,
    controller: Controller,
    two_pools: tuple[str, str],
) -> None:
    """Weights 1, 1 and 2; who comes last gets its share from those who were there."""
    for tenant, weight in (("acme", 1), ("beta", 1), ("ceres", 2)):
        await controller.create_tenant(tenant, weight=weight)
    leaving = asyncio.create_task(give_up(controller))
    try:
        for tenant in ("acme", "beta", "ceres"):
            for pool in two_pools:
                await controller.ask(tenant, count=16, shape=gpus(pool))

        async def is_fair() -> bool:
            held = await held_by_tenant(controller, *two_pools)
            shares = (held["acme"], held["beta"], held["ceres"] / 2)
            return sum(held.values()) == 24 and max(shares) - min(shares) <= 1

        await until(is_fair, limit_s=90)
    finally:
        leaving.cancel()
    nodes = gpus_of_nodes(kube)
    assert over_capacity(await all_leases(controller), nodes) == []
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 24, limit_s=60)
    queued = [x for x in await all_leases(controller) if x.state == pb.LEASE_STATE_QUEUED]
    assert {lease.wait.reason for lease in queued} == {"POOL_FULL"}


async def test_a_guarantee_is_back_within_the_grace_and_two_seconds(
    kube: Kube,
    running_allocator: AllocatorProcess,
    controller: Controller,
    two_pools: tuple[str, str],
) -> None:
    """Whose slots are taken does not leave by itself: the worst case."""
    await controller.create_tenant("acme")
    await controller.create_tenant("owner", guaranteed_gpus=6)
    await controller.ask("acme", count=30, shape=gpus(two_pools[0]))
    await controller.until(lambda: len(controller.held("acme")) == 16)
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 16, limit_s=60)
    await asyncio.sleep(5)
    claimed = time.monotonic()
    names = await controller.ask("owner", count=6, shape=gpus(two_pools[0]))
    await controller.until(
        lambda: all(controller.leases[name].state == HELD for name in names),
        limit_s=GRACE_S + 2 - (time.monotonic() - claimed),
    )
    taken = [x for x in controller.history if x.problem.reason == "REVOKED_GUARANTEE"]
    assert len({lease.name for lease in taken}) == 6


async def test_gangs_are_whole_and_on_one_node(
    kube: Kube,
    running_allocator: AllocatorProcess,
    controller: Controller,
    two_pools: tuple[str, str],
) -> None:
    """Nodes of 8: five leases of 3 GPUs have room for four, though 16 would do for five."""
    await controller.create_tenant("acme")
    names = await controller.ask("acme", slots=3, count=5, shape=gpus(two_pools[0]))
    await controller.until(lambda: len(controller.held()) == 4)
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 4, limit_s=60)
    pods = kube.pods(release)
    limits = [pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods]
    assert [limit["nvidia.com/gpu"] for limit in limits] == ["3"] * 4
    assert sorted(Counter(pod["spec"]["nodeName"] for pod in pods).values()) == [2, 2]
    [waiting] = [n for n in names if controller.leases[n].state == pb.LEASE_STATE_QUEUED]
    assert controller.leases[waiting].wait.reason == "POOL_FULL"


async def test_a_slice_of_a_device_is_given_as_that_slice(
    kube: Kube,
    running_allocator: AllocatorProcess,
    controller: Controller,
    two_pools: tuple[str, str],
) -> None:
    """A lease of `mig-1g.10gb` asks for that resource, on the node that has it, and no further."""
    pool, sliced = two_pools[1], f"{two_pools[1]}-mig-1g.10gb"
    slices = {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "3"}
    patch: Json = {"status": {"capacity": slices, "allocatable": slices}}
    kube.run("patch", "node", f"{pool}-0", "--subresource=status", "-p", json.dumps(patch))
    await controller.create_tenant("acme")
    request = pb.GetPoolRequest(name=f"pools/{sliced}")

    async def has_slices() -> bool:
        pools = (await controller.pools.ListPools(pb.ListPoolsRequest())).pools
        return any(each.name == request.name and each.slot_count == 3 for each in pools)

    await until(has_slices)
    shape = pb.Shape(resource="mig-1g.10gb")
    names = await controller.ask("acme", count=4, shape=shape)
    await controller.until(lambda: len(controller.held(pool=sliced)) == 3)
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 3, limit_s=60)
    for pod in kube.pods(release):
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/mig-1g.10gb"] == "1"
        assert "nvidia.com/gpu" not in limits
        assert pod["spec"]["nodeName"] == f"{pool}-0"
    assert [controller.leases[n].state for n in names].count(pb.LEASE_STATE_QUEUED) == 1
