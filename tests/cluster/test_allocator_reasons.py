"""What users and operators are told: why a lease waits, and Events on Jobs and nodes."""

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import (
    ENDED,
    HELD,
    AllocatorProcess,
    Controller,
    Kube,
    until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


def reasons(kube: Kube, kind: str, name: str) -> set[str]:
    """Of the Events about an object that are the allocator's."""
    selector = f"involvedObject.kind={kind},involvedObject.name={name}"
    found = kube.get("events", "-A", "--field-selector", selector)
    return {e["reason"] for e in found if "allotment" in (e.get("reportingComponent") or "")}


async def test_a_namespaces_quota_is_the_reason_why_a_lease_waits_until_it_is_raised(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    release = running_allocator.release
    [first] = await controller.ask("acme", shape=gpus(gpu_pool))
    await until(lambda: len(kube.pods(release, "Running")) == 1)
    space = f"{release}-acme"
    kube.run("create", "quota", "team", "--hard=pods=1", "-n", space)
    [second] = await controller.ask("acme", shape=gpus(gpu_pool))
    await controller.until(lambda: controller.leases[second].wait.reason == "POD_REFUSED")
    assert "exceeded quota: team" in controller.leases[second].wait.message
    job = f"{second.rpartition('/')[2]}-1"
    await until(lambda: reasons(kube, "Job", job) == {"Granted", "PodRefused"})
    await controller.release(first)
    await until(lambda: len(kube.jobs(release)) == 1)
    kube.run("delete", "quota", "team", "-n", space)
    await controller.until(lambda: not controller.leases[second].HasField("wait"), limit_s=60)


async def test_revocations_and_nodes_are_told_as_events(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    await controller.create_tenant("acme")
    [name] = await controller.ask("acme", shape=gpus(gpu_pool))
    await until(lambda: len(kube.pods(running_allocator.release, "Running")) == 1)
    node = controller.leases[name].node
    assert controller.leases[name].state == HELD
    kube.run("cordon", node)
    await controller.until(lambda: controller.leases[name].state in ENDED, limit_s=30)
    job = f"{name.rpartition('/')[2]}-1"
    await until(lambda: {"Granted", "Revoked"} <= reasons(kube, "Job", job))
    await until(lambda: "NodeCordoned" in reasons(kube, "Node", node))
