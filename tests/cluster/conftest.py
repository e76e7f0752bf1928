"""For tests that need a cluster: the one that $KUBECONFIG names."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from allotment_testkit.cluster_allocator import (
    AllocatorProcess,
    Controller,
    Kube,
    allocator,
    controller_of,
    why_no_cluster,
)


@pytest.fixture(scope="session")
def kube() -> Kube:
    """The cluster, or a reason to skip."""
    reason = why_no_cluster()
    if reason:
        pytest.skip(reason)
    return Kube()


@pytest.fixture
def gpu_pool(kube: Kube) -> Iterator[str]:
    """A pool of fake nodes of this test alone: `<pool>-0` and `<pool>-1`, with 4 GPUs each."""
    if not kube.get("nodes", "-l", "type=kwok"):
        pytest.skip("the cluster has no fake nodes (kwok)")
    pool = f"p{uuid.uuid4().hex[:6]}"
    names = [f"{pool}-{n}" for n in range(2)]
    for name in names:
        kube.fake_node(name, pool, gpus=4)
    yield pool
    kube.run("delete", "nodes", "-l", f"allotment.dev/pool={pool}", "--wait=false")


@pytest.fixture
def running_allocator(kube: Kube, tmp_path: Path) -> Iterator[AllocatorProcess]:
    """`python -m allotment_allocator` on the cluster, as a release of its own."""
    with allocator(tmp_path) as running:
        yield running


@pytest.fixture
async def controller(running_allocator: AllocatorProcess) -> AsyncIterator[Controller]:
    """Asks for leases and renews them, as the controller does."""
    async with controller_of(running_allocator) as connected:
        yield connected
