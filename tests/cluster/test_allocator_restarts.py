"""What an allocator finds when it comes back, and what it does while the cluster is silent."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    HELD,
    AllocatorProcess,
    Controller,
    Json,
    Kube,
    allocator,
    api_server_port,
    controller_of,
    kubeconfig_through,
    until,
)
from allotment_testkit.faults import faulty_wire

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

OUTAGE_S = float(os.environ.get("ALLOTMENT_TEST_OUTAGE_S", "20"))


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


def uids(kube: Kube, release: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in kube.pods(release, "Running")}


async def test_a_killed_allocator_goes_on_with_the_trainers_that_it_finds(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    names = await controller.ask("acme", count=4, shape=gpus(gpu_pool))
    release = running_allocator.release
    await until(lambda: len(uids(kube, release)) == 4)
    before = uids(kube, release)
    running_allocator.kill()
    running_allocator.start()
    await asyncio.sleep(5)
    assert [(controller.leases[n].state, controller.leases[n].epoch) for n in names] == [
        (HELD, 1)
    ] * 4
    assert uids(kube, release) == before


async def test_a_job_of_nobodys_lease_goes_and_one_that_is_not_ours_stays(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    await controller.ask("acme", shape=gpus(gpu_pool))
    release = running_allocator.release
    await until(lambda: len(kube.pods(release, "Running")) == 1)
    [real] = kube.jobs(release)
    orphan = _copy(real, "orphan-1", {"allotment.dev/lease": "l-nobodys"})
    strange = _copy(real, "strange-1", {"allotment.dev/epoch": "x"})
    kube.apply(orphan, strange)
    await until(lambda: "orphan-1" not in _names(kube, release), limit_s=30)
    assert {real["metadata"]["name"], "strange-1"} <= _names(kube, release)


def _copy(job: Json, name: str, labels: dict[str, str]) -> Json:
    copy: Json = json.loads(json.dumps(job))
    metadata, spec = copy["metadata"], copy["spec"]
    template = spec["template"]
    for owner in ("batch.kubernetes.io/", "controller-uid", "job-name"):
        for marks in (metadata["labels"], template["metadata"]["labels"]):
            for key in [key for key in marks if key.startswith(owner)]:
                del marks[key]
    del spec["selector"]
    del template["spec"]["affinity"]
    trainer = {"allotment.dev/trainer": f"t-{name}"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {**metadata["labels"], **trainer, **labels},
            "annotations": metadata["annotations"],
        },
        "spec": {
            **spec,
            "template": {
                "metadata": {"labels": {**template["metadata"]["labels"], **trainer, **labels}},
                "spec": template["spec"],
            },
        },
    }


def _names(kube: Kube, release: str) -> set[str]:
    return {job["metadata"]["name"] for job in kube.jobs(release)}


@contextmanager
def behind_a_wire(folder: Path) -> Iterator[tuple[AllocatorProcess, Callable[[bool], None]]]:
    """An allocator that reaches the API server through a wire, and the wire's switch."""
    port = api_server_port()
    if not port:
        pytest.skip("the API server is not on 127.0.0.1")
    with faulty_wire(port) as wire:
        through = kubeconfig_through(wire.port, folder / "kubeconfig")
        with allocator(folder, ALLOTMENT_CLUSTER_KUBECONFIG=through) as running:
            yield running, lambda whole: wire.mend() if whole else wire.cut()


async def test_without_the_api_server_leases_go_on_and_nothing_is_granted_twice_after(
    kube: Kube, gpu_pool: str, tmp_path: Path
) -> None:
    with behind_a_wire(tmp_path) as (running, wire):
        async with controller_of(running) as controller:
            await controller.create_tenant("acme")
            names = await controller.ask("acme", count=6, shape=gpus(gpu_pool))
            await until(lambda: len(uids(kube, running.release)) == 6)
            before = uids(kube, running.release)
            wire(False)
            more = await controller.ask("acme", count=3, shape=gpus(gpu_pool))
            await controller.release(names[0])
            await asyncio.sleep(OUTAGE_S)
            assert {(x.state, x.epoch) for n in names[1:] for x in [controller.leases[n]]} == {
                (HELD, 1)
            }
            wire(True)
            live = [*names[1:], *more]
            await controller.until(
                lambda: all(
                    controller.leases[n].state == HELD and not controller.leases[n].HasField("wait")
                    for n in live
                ),
                limit_s=60,
            )
            await until(lambda: len(uids(kube, running.release)) == 8, limit_s=30)
            assert len(uids(kube, running.release) & before) == 5
            assert {controller.leases[n].epoch for n in live} == {1}
            held = [lease for lease in controller.held() if lease.pool == f"pools/{gpu_pool}"]
            assert sum(lease.slot_count for lease in held) == 8


async def test_an_allocator_that_starts_without_the_api_server_waits_for_it(
    kube: Kube, gpu_pool: str, tmp_path: Path
) -> None:
    with behind_a_wire(tmp_path) as (running, wire):
        async with controller_of(running) as controller:
            await controller.create_tenant("acme")
            [held] = await controller.ask("acme", shape=gpus(gpu_pool))
            await until(lambda: len(uids(kube, running.release)) == 1)
            before = uids(kube, running.release)
            wire(False)
            running.kill()
            running.start()
            [waiting] = await controller.ask("acme", shape=gpus(gpu_pool))
            await asyncio.sleep(5)
            assert controller.leases[held].state == HELD
            assert controller.leases[waiting].state == pb.LEASE_STATE_QUEUED
            assert "API server" in controller.leases[waiting].wait.message
            wire(True)
            await controller.until(lambda: controller.leases[waiting].state == HELD, limit_s=30)
            await until(lambda: len(uids(kube, running.release)) == 2)
            assert before < uids(kube, running.release)
            assert controller.leases[held].epoch == 1
