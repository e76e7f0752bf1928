"""Nothing is granted twice, whatever stops: short forms of `bench.cluster`."""

import os
import uuid
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
    controller_of,
    until,
)
from allotment_testkit.cluster_trouble import (
    all_leases,
    api_server,
    doubled_pods,
    gpus_of_nodes,
    kill_often,
    outage,
    over_capacity,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("ALLOTMENT_TEST_KILLS", "5"))
NODES = int(os.environ.get("ALLOTMENT_TEST_NODES", "100"))
OUTAGE_S = float(os.environ.get("ALLOTMENT_TEST_OUTAGE_S", "20"))


@pytest.fixture
def large_pool(kube: Kube) -> Iterator[str]:
    """A pool of many fake nodes of this test alone, with 8 GPUs each."""
    if not kube.get("nodes", "-l", "type=kwok"):
        pytest.skip("the cluster has no fake nodes (kwok)")
    pool = f"p{uuid.uuid4().hex[:6]}"
    kube.fake_nodes([f"{pool}-{n}" for n in range(NODES)], pool)
    yield pool
    kube.run("delete", "nodes", "-l", f"allotment.dev/pool={pool}", "--wait=false")


def one_gpu(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


async def test_hundreds_of_leases_become_as_many_pods(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, large_pool: str
) -> None:
    each = NODES * 2
    for tenant in ("acme", "beta", "ceres"):
        await controller.create_tenant(tenant)
        await controller.ask(tenant, count=each, shape=one_gpu(large_pool))
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 3 * each, limit_s=300)
    gpus = gpus_of_nodes(kube)
    leases = await all_leases(controller)
    assert [lease.state for lease in leases] == [HELD] * (3 * each)
    assert {lease.epoch for lease in leases} == {1}
    assert over_capacity(leases, gpus) == []
    assert doubled_pods(kube.pods(release), gpus) == []


async def test_kills_at_random_moments_double_nothing_and_leave_no_orphans(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, large_pool: str
) -> None:
    findings = await kill_often(
        kube,
        running_allocator,
        controller,
        kills=KILLS,
        leases=NODES,
        shape=one_gpu(large_pool),
    )
    assert findings.clean, findings
    assert len(findings.back_s) == KILLS


async def test_an_api_server_that_stops_costs_no_lease_and_doubles_none(
    kube: Kube, gpu_pool: str, tmp_path: Path
) -> None:
    server = api_server()
    if server is None:
        pytest.skip("the API server is no process of this machine")
    with allocator(tmp_path) as running:
        async with controller_of(running) as controller:
            findings = await outage(
                kube,
                running,
                controller,
                server,
                leases=8,
                seconds=OUTAGE_S,
                shape=one_gpu(gpu_pool),
            )
    assert findings.clean, findings
