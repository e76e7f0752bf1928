"""Tenants as namespaces, on a real control plane."""

import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_core.rpc.client import request_id
from allotment_testkit.authority import Authority
from allotment_testkit.cluster_allocator import HELD, AllocatorProcess, Controller, Kube, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def gpus(pool: str) -> pb.Shape:
    return pb.Shape(resource="gpu", pool=f"pools/{pool}")


def namespaces(kube: Kube, release: str) -> dict[str, dict[str, str]]:
    """Labels of the release's namespaces that are not on their way out."""
    found = kube.get("namespaces", "-l", f"app.kubernetes.io/instance={release}")
    return {
        item["metadata"]["name"]: item["metadata"]["labels"]
        for item in found
        if "deletionTimestamp" not in item["metadata"]
    }


async def test_a_tenants_namespace_comes_with_its_first_lease_and_goes_with_it(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    release = running_allocator.release
    space = f"{release}-acme"
    tenant = await controller.create_tenant("acme")
    [name] = await controller.ask("acme", shape=gpus(gpu_pool))
    await until(lambda: len(kube.pods(release, "Running")) == 1)
    labels = namespaces(kube, release)[space]
    assert labels["allotment.dev/tenant"] == "acme"
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for kind in ("resourcequota", "limitrange", "networkpolicy", "rolebinding"):
        assert len(kube.get(kind, "-n", space)) == 1, kind

    [before] = kube.get("configmap", "allotment-ca", "-n", space)
    (running_allocator.folder / "ca.crt").write_bytes(Authority().pem)

    def renewed() -> bool:
        return bool(kube.get("configmap", "allotment-ca", "-n", space)[0]["data"] != before["data"])

    await until(renewed, limit_s=10)

    await controller.release(name)
    await until(lambda: not kube.pods(release))
    await controller.tenants.DeleteTenant(
        pb.DeleteTenantRequest(request_id=request_id(), name=tenant)
    )
    await until(lambda: space not in namespaces(kube, release), limit_s=15)


async def test_a_namespace_of_somebody_else_is_left_alone_and_said_so(
    kube: Kube, running_allocator: AllocatorProcess, controller: Controller, gpu_pool: str
) -> None:
    space = f"{running_allocator.release}-evil"
    kube.run("create", "namespace", space)
    try:
        await controller.create_tenant("evil")
        [name] = await controller.ask("evil", shape=gpus(gpu_pool))
        await controller.until(lambda: controller.leases[name].state == HELD)
        await controller.until(lambda: "is not that of" in controller.leases[name].problem.message)
        assert kube.get("serviceaccounts", "-n", space, "-l", "app.kubernetes.io/part-of") == []
        await controller.release(name)
    finally:
        kube.run("delete", "namespace", space, "--wait=false")
