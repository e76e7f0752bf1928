"""Tenants whose trainers Kueue admits, on a real control plane: the test admits and evicts as Kueue
does, by a Job's `suspend`."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    ENDED,
    HELD,
    AllocatorProcess,
    Controller,
    Kube,
    allocator,
    until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def running_allocator(kube: Kube, tmp_path: Path) -> Iterator[AllocatorProcess]:
    """Tenant acme has a queue, others have none."""
    with allocator(
        tmp_path,
        ALLOTMENT_CLUSTER_QUEUES=json.dumps({"acme": "team-acme"}),
        ALLOTMENT_CLUSTER_QUEUE_PRIORITY_CLASS="batch",
        ALLOTMENT_CLUSTER_QUEUE_PENDING_LIMIT="2",
    ) as running:
        yield running


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


def suspend(kube: Kube, job: dict[str, Any], value: bool) -> None:
    metadata = job["metadata"]
    change = json.dumps({"spec": {"suspend": value}})
    kube.run(
        "patch", "job", metadata["name"], "-n", metadata["namespace"], "--type=merge", "-p", change
    )


async def test_a_lease_is_held_while_its_queue_lets_its_job_run(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    release = running_allocator.release
    await controller.create_tenant("acme")
    [name] = await controller.ask("acme", slots=2, shape=gpus(gpu_pool))
    await until(lambda: len(kube.jobs(release)) == 1)
    [job] = kube.jobs(release)
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-acme"
    assert labels["kueue.x-k8s.io/priority-class"] == "batch"
    assert job["spec"]["suspend"] is True
    await controller.until(lambda: controller.leases[name].wait.reason == "SUSPENDED")
    assert controller.leases[name].state == pb.LEASE_STATE_QUEUED
    assert kube.pods(release) == []

    running_allocator.kill()
    running_allocator.start()
    await asyncio.sleep(3)
    assert [each["metadata"]["uid"] for each in kube.jobs(release)] == [job["metadata"]["uid"]]
    assert controller.leases[name].state == pb.LEASE_STATE_QUEUED

    suspend(kube, job, False)
    await controller.until(lambda: controller.leases[name].state == HELD)
    await controller.until(lambda: controller.leases[name].node.startswith(gpu_pool))
    await until(lambda: len(kube.pods(release, "Running")) == 1)
    [pod] = kube.pods(release)
    assert pod["spec"]["nodeName"] == controller.leases[name].node

    suspend(kube, job, True)
    await controller.until(lambda: controller.leases[name].state in ENDED, limit_s=15)
    assert controller.leases[name].state == pb.LEASE_STATE_RELEASED
    assert controller.leases[name].problem.reason == "REVOKED_BY_QUEUE"
    await until(lambda: not kube.jobs(release) and not kube.pods(release))


async def test_no_more_wait_in_a_queue_than_its_limit_and_others_do_without(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    release = running_allocator.release
    await controller.create_tenant("acme")
    await controller.create_tenant("beta")
    names = await controller.ask("acme", count=3, shape=gpus(gpu_pool))
    await until(lambda: len(kube.jobs(release)) == 2)
    await controller.until(
        lambda: "QUEUE_LIMIT" in {controller.leases[name].wait.reason for name in names}
    )
    [free] = await controller.ask("beta", shape=gpus(gpu_pool))
    await controller.until(lambda: controller.leases[free].state == HELD)
    queued = [j for j in kube.jobs(release) if j["spec"]["suspend"]]
    suspend(kube, queued[0], False)
    await controller.until(lambda: len(controller.held("acme")) == 1)
    await until(lambda: len([j for j in kube.jobs(release) if j["spec"]["suspend"]]) == 2)
    await controller.release(*[n for n in names if controller.leases[n].state != HELD])
    await until(lambda: not [j for j in kube.jobs(release) if j["spec"]["suspend"]])


async def test_a_trainer_that_is_lost_is_admitted_anew_under_another_lease(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    release = running_allocator.release
    await controller.create_tenant("acme")
    [name] = await controller.ask("acme", shape=gpus(gpu_pool))
    await until(lambda: len(kube.jobs(release)) == 1)
    suspend(kube, kube.jobs(release)[0], False)
    await controller.until(lambda: controller.leases[name].state == HELD)
    await until(lambda: len(kube.pods(release, "Running")) == 1)
    await controller.until(lambda: controller.leases[name].node != "")
    kube.delete_node(controller.leases[name].node)
    await controller.until(lambda: controller.leases[name].state in ENDED, limit_s=20)
    assert controller.leases[name].problem.reason.startswith("REVOKED_")
    await until(lambda: not kube.jobs(release))
