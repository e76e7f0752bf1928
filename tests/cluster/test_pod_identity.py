"""Real tokens of a real API server: what a trainer's pod may do, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_api.trainer.v1 import session_pb2, session_pb2_grpc
from allotment_core.auth import pod_identities
from allotment_core.clock import SystemClock
from allotment_core.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from allotment_core.rpc.client import from_rpc_error
from allotment_core.rpc.fetched_keys import FetchedKeys
from allotment_testkit.cluster_allocator import AllocatorProcess, Controller, Kube, until
from allotment_testkit.rpc import Served, serving
from allotment_testkit.stub_services import Stubs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
ACCOUNT = "allotment-trainer"
SHA256 = "0" * 64


def token_of(
    kube: Kube, namespace: str, pod: str, account: str = ACCOUNT, audience: str = "allotment"
) -> str:
    """What the kubelet puts into this pod."""
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
    return kube.run(
        "create", "token", account, "-n", namespace, f"--audience={audience}", *bound
    ).strip()


@dataclass(frozen=True, kw_only=True)
class Site:
    """A lease of tenant acme with a pod, and a service that trainers call."""

    kube: Kube
    running: AllocatorProcess
    controller: Controller
    lease: str
    store: Served

    @property
    def namespace(self) -> str:
        return f"{self.running.release}-acme"

    def pods(self) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.kube.pods(self.running.release)
            if "deletionTimestamp" not in pod["metadata"]
        ]

    async def fetches(self, token: str, tenant: str = "acme") -> None:
        """Raises: AllotmentError."""
        stub: Any = blob_pb2_grpc.BlobServiceStub(self.store.channel(token))
        request = blob_pb2.ReadBlobRequest(name=f"tenants/{tenant}/blobs/{SHA256}")
        try:
            async for _ in stub.ReadBlob(request):
                pass
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None

    async def settled(self, token: str) -> None:
        """`fetches` once it is not UNAVAILABLE any more, as clients do."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self.fetches(token)
                except Unavailable:
                    await asyncio.sleep(0.2)

    async def refuses(self, token: str) -> str:
        """Why, once it does: an answer of the allocator counts for a moment."""
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.fetches(token)
                except Unauthenticated as e:
                    return e.reason
                await asyncio.sleep(0.3)

    async def opens(self, token: str, lease: str) -> None:
        """A session. Raises: AllotmentError."""
        stub: Any = session_pb2_grpc.TrainerServiceStub(self.store.channel(token))
        call = stub.OpenSession()
        try:
            hello = session_pb2.Hello(lease=lease, lease_epoch=1)
            await call.write(session_pb2.OpenSessionRequest(hello=hello))
            assert (await call.read()).HasField("welcome")
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        finally:
            call.cancel()


@pytest.fixture
async def site(
    kube: Kube,
    running_allocator: AllocatorProcess,
    controller: Controller,
    gpu_pool: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Site]:
    monkeypatch.setattr(pod_identities, "CONFIRMED_S", 1.0)
    for tenant in ("acme", "other"):
        await controller.create_tenant(tenant)
    shape = pb.Shape(resource="gpu", pool=f"pools/{gpu_pool}")
    [lease] = await controller.ask("acme", shape=shape)
    await until(lambda: len(kube.pods(running_allocator.release, "Running")) == 1, 60)
    keys = FetchedKeys(running_allocator.channel(), SystemClock())
    async with serving(Stubs().service, verifier=keys) as store:
        yield Site(
            kube=kube,
            running=running_allocator,
            controller=controller,
            lease=lease,
            store=store,
        )


async def test_a_pods_token_opens_its_own_lease_and_tenant_until_the_lease_ends(
    site: Site,
) -> None:
    [pod] = site.pods()
    token = token_of(site.kube, site.namespace, pod)
    await site.settled(token)
    await site.opens(token, site.lease)
    with pytest.raises(NotFound):
        await site.fetches(token, "other")
    for lease in ("tenants/acme/leases/another", site.lease.replace("/acme/", "/other/")):
        with pytest.raises(NotFound):
            await site.opens(token, lease)
    await site.controller.release(site.lease)
    assert await site.refuses(token) == "LEASE_ENDED"


async def test_the_pod_of_an_earlier_epoch_is_nobodys(site: Site) -> None:
    [pod] = site.pods()
    old = token_of(site.kube, site.namespace, pod)
    await site.settled(old)
    site.kube.delete_node(site.controller.leases[site.lease].node)
    await site.controller.until(lambda: site.controller.leases[site.lease].epoch == 2)
    await until(lambda: site.pods() not in ([], [pod]), 60)
    assert await site.refuses(old) == "LEASE_ENDED"
    [newer] = [name for name in site.pods() if name != pod]
    await site.settled(token_of(site.kube, site.namespace, newer))


async def test_what_is_no_token_of_a_trainers_pod_is_refused(site: Site) -> None:
    [pod] = site.pods()
    await site.settled(token_of(site.kube, site.namespace, pod))
    elsewhere = token_of(site.kube, site.namespace, pod, audience="https://kubernetes.default.svc")
    plain = site.kube.run(
        "create", "token", ACCOUNT, "-n", site.namespace, "--audience=allotment"
    ).strip()
    for token in (elsewhere, plain, f"{plain[:-4]}AAAA"):
        with pytest.raises(Unauthenticated) as refused:
            await site.fetches(token)
        assert refused.value.reason == "INVALID_TOKEN"


async def test_a_pod_whose_labels_lie_is_nobodys(site: Site) -> None:
    [pod] = site.pods()
    await site.settled(token_of(site.kube, site.namespace, pod))
    [ours] = site.kube.get("pod", pod, "-n", site.namespace)
    labels = ours["metadata"]["labels"]
    forged = {
        # With the lease of a real one, as nobody of ours made it.
        "tenant": {**labels, "allotment.dev/tenant": "other"},
        "release": {**labels, "app.kubernetes.io/instance": "another"},
        "unlabelled": {},
    }
    for name, worn in forged.items():
        site.kube.apply(_pod(name, site.namespace, worn))
        with pytest.raises(Unauthenticated) as refused:
            await site.fetches(token_of(site.kube, site.namespace, name))
        assert refused.value.reason == "LEASE_ENDED"


async def test_a_known_pod_works_on_while_the_allocator_is_away_and_after_its_return(
    site: Site,
) -> None:
    [pod] = site.pods()
    token = token_of(site.kube, site.namespace, pod)
    await site.settled(token)
    site.running.kill()
    await asyncio.sleep(1.5)
    await site.fetches(token)
    site.running.start()
    await asyncio.sleep(pod_identities.REFUSED_S)
    await site.settled(token)
    with pytest.raises((PermissionDenied, NotFound)):
        await site.opens(token, "tenants/acme/leases/another")


def _pod(name: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    """As somebody with rights in the namespace would make it."""
    secure = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    limits = {"cpu": "100m", "memory": "64Mi"}
    worn = {key: value for key, value in labels.items() if "kubernetes.io/job" not in key}
    worn = {key: value for key, value in worn.items() if "controller-uid" not in key}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": worn},
        "spec": {
            "serviceAccountName": ACCOUNT,
            "nodeName": "",
            "schedulerName": "nobody",
            "containers": [
                {
                    "name": "c",
                    "image": "allotment/trainer:test",
                    "securityContext": secure,
                    "resources": {"limits": limits},
                }
            ],
        },
    }
