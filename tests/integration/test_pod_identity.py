"""Trainers in pods: what their cluster's token opens, and for how long."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_api.trainer.v1 import session_pb2_grpc
from allotment_core.auth.pod_identities import CONFIRMED_S, KEPT_S
from allotment_core.auth.pod_tokens import Pod
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    AllotmentError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from allotment_core.rpc import fetched_keys
from allotment_core.rpc.client import from_rpc_error
from allotment_core.rpc.fetched_keys import SOONEST_S
from allotment_testkit.clock import ManualClock
from allotment_testkit.pod_tokens import ISSUER, PretendCluster, ec_key, rsa_key
from allotment_testkit.rpc import Served, serving
from allotment_testkit.search_world import SearchWorld, create, spec
from allotment_testkit.stub_services import Stubs

ACME = "tenants/acme"
LEASE = f"{ACME}/leases/l1"
POD = Pod("allotment-acme", "uid-1")
SHA256 = "0" * 64


class Cluster(PretendCluster):
    """Its keys, as the allocator hands them out."""

    def told(self) -> allocator_pb2.PodTokens:
        return allocator_pb2.PodTokens(issuer=ISSUER, audience="allotment", jwks=self.jwks())


@dataclass(frozen=True, kw_only=True)
class Site:
    """A store of blobs that asks the allocator about its callers."""

    world: SearchWorld
    store: Served
    cluster: Cluster
    clock: ManualClock

    def token(self, pod: Pod = POD) -> str:
        return self.cluster.token(pod, self.clock.now())

    async def reads(self, token: str) -> None:
        """What a viewer may see. Raises: AllotmentError."""
        stub: Any = allocator_pb2_grpc.TenantServiceStub(self.store.channel(token))
        try:
            await stub.GetTenant(allocator_pb2.GetTenantRequest(name=ACME))
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None

    async def fetches(self, token: str, tenant: str = ACME) -> None:
        """As a trainer does. Raises: AllotmentError."""
        stub: Any = blob_pb2_grpc.BlobServiceStub(self.store.channel(token))
        request = blob_pb2.ReadBlobRequest(name=f"{tenant}/blobs/{SHA256}")
        try:
            async for _ in stub.ReadBlob(request):
                pass
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None


async def until(done: Callable[[], Awaitable[None]]) -> None:
    """Repeats what is UNAVAILABLE, as clients do."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await done()
            except Unavailable:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def blob_site(folder: Path, cluster: Cluster) -> AsyncIterator[Site]:
    world, clock = SearchWorld(folder), ManualClock(SystemClock().now())
    world.tenants.pod_tokens = cluster.told()
    async with world.open():
        lease = allocator_pb2.Lease(name=LEASE, epoch=2, state=allocator_pb2.LEASE_STATE_HELD)
        world.allocator.leases[LEASE] = lease
        world.allocator.pods[POD.uid] = (LEASE, 2)
        keys = world.keys(clock)
        async with serving(Stubs().service, verifier=keys, signer=world.signer) as store:
            yield Site(world=world, store=store, cluster=cluster, clock=clock)


@pytest.fixture(params=["RS256", "ES256"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    cluster = Cluster(rsa_key() if request.param == "RS256" else ec_key())
    async with blob_site(tmp_path, cluster) as made:
        yield made


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Site]:
    async with blob_site(tmp_path, Cluster(ec_key())) as made:
        yield made


# Blobs


async def test_a_pod_reads_its_tenants_blobs_and_no_others(site: Site) -> None:
    token = site.token()
    await until(lambda: site.fetches(token))
    with pytest.raises(NotFound):
        await site.fetches(token, "tenants/other")
    with pytest.raises(PermissionDenied):  # Verbs of a trainer, no more.
        await site.reads(token)
    assert site.world.allocator.identified == [POD.uid]


async def test_tokens_of_our_own_go_on_as_before(one: Site) -> None:
    await until(lambda: one.fetches(one.store.token(tenant=ACME)))
    assert one.world.allocator.identified == []


async def test_many_calls_at_once_ask_once(one: Site) -> None:
    token = one.token()
    await until(lambda: one.fetches(one.store.token(tenant=ACME)))
    await asyncio.gather(*(one.fetches(token) for _ in range(50)))
    assert one.world.allocator.identified == [POD.uid]


async def test_a_pod_that_is_nobodys_is_refused(one: Site) -> None:
    await until(lambda: one.fetches(one.token()))
    with pytest.raises(Unauthenticated) as refused:
        await one.fetches(one.token(Pod("allotment-acme", "uid-2")))
    assert refused.value.reason == "LEASE_ENDED"


@pytest.mark.parametrize("how", ["released", "expired", "next epoch"])
async def test_after_its_lease_has_ended_a_pod_reads_nothing_more(one: Site, how: str) -> None:
    token = one.token()
    await until(lambda: one.fetches(token))
    if how == "next epoch":
        one.world.allocator.restart(LEASE)
    else:
        state = "RELEASED" if how == "released" else "EXPIRED"
        one.world.allocator.end(LEASE, getattr(allocator_pb2, f"LEASE_STATE_{state}"))
    one.clock.advance(CONFIRMED_S)
    with pytest.raises(Unauthenticated) as refused:
        await one.fetches(token)
    assert refused.value.reason == "LEASE_ENDED"


async def test_a_token_ends_by_itself_and_the_renewed_one_goes_on(one: Site) -> None:
    token = one.token()
    await until(lambda: one.fetches(token))
    one.clock.advance(3600)
    with pytest.raises(Unauthenticated) as refused:
        await one.fetches(token)
    assert refused.value.reason == "TOKEN_EXPIRED"
    await one.fetches(one.token())


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "[" * 3000])
async def test_garbage_is_unauthenticated(one: Site, token: str) -> None:
    await until(lambda: one.fetches(one.token()))
    with pytest.raises(Unauthenticated) as refused:
        await one.fetches(token)
    assert refused.value.reason == "INVALID_TOKEN"


async def test_another_clusters_token_is_unauthenticated(one: Site) -> None:
    await until(lambda: one.fetches(one.token()))
    forged = Cluster(ec_key(), one.cluster.key_id).token(POD, one.clock.now())
    with pytest.raises(Unauthenticated):
        await one.fetches(forged)
    other = Cluster(ec_key(), "elsewhere").token(POD, one.clock.now())
    one.clock.advance(SOONEST_S)
    with pytest.raises(Unauthenticated):
        await until(lambda: one.fetches(other))


# The allocator's absence


async def test_an_unknown_pod_tries_again_while_the_allocator_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched_keys, "IDENTIFY_S", 0.3)
    async with blob_site(tmp_path, Cluster(ec_key())) as one:
        await until(lambda: one.fetches(one.token()))
        assert one.world.peers is not None
        await one.world.peers.server.stop(0)
        one.world.allocator.pods["uid-2"] = (LEASE, 2)
        with pytest.raises(Unavailable) as refused:
            await one.fetches(one.token(Pod("allotment-acme", "uid-2")))
        assert refused.value.retry_after_s
        # One that was known works on, for a while.
        one.clock.advance(CONFIRMED_S)
        await one.fetches(one.token())
        one.clock.advance(KEPT_S)
        with pytest.raises(Unavailable):
            await one.fetches(one.token())


async def test_a_pod_waits_for_keys_that_the_allocator_has_not_got_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched_keys, "SOON_S", 0.05)
    cluster = Cluster(ec_key())
    world, clock = SearchWorld(tmp_path), ManualClock(SystemClock().now())
    world.tenants.pod_tokens = allocator_pb2.PodTokens(audience="allotment")
    async with world.open():
        world.allocator.leases[LEASE] = allocator_pb2.Lease(
            name=LEASE, epoch=2, state=allocator_pb2.LEASE_STATE_HELD
        )
        world.allocator.pods[POD.uid] = (LEASE, 2)
        keys = world.keys(clock)
        async with serving(Stubs().service, verifier=keys, signer=world.signer) as store:
            site = Site(world=world, store=store, cluster=cluster, clock=clock)
            await until(lambda: site.fetches(store.token(tenant=ACME)))
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await site.fetches(site.token())
            world.tenants.pod_tokens = cluster.told()
            await until(lambda: site.fetches(site.token()))


async def test_a_new_key_of_the_cluster_is_asked_for_by_its_name(one: Site) -> None:
    await until(lambda: one.fetches(one.token()))
    newer = Cluster(ec_key(), "cluster-key-2")
    one.world.tenants.pod_tokens = newer.told()
    one.clock.advance(SOONEST_S)
    await until(lambda: one.fetches(newer.token(POD, one.clock.now())))
    assert one.world.tenants.unknown_key_ids == ["", "cluster-key-2"]


async def test_keys_are_kept_while_the_allocator_has_none(one: Site) -> None:
    await until(lambda: one.fetches(one.token()))
    one.world.tenants.pod_tokens = allocator_pb2.PodTokens(audience="allotment")
    one.clock.advance(SOONEST_S)
    with pytest.raises(Unauthenticated):
        await until(lambda: one.fetches(Cluster(ec_key(), "x").token(POD, one.clock.now())))
    await one.fetches(one.token())


# Sessions with the controller


@dataclass(kw_only=True)
class Held:
    """An experiment whose lease is held by a pod."""

    world: SearchWorld
    cluster: Cluster
    lease: str

    def session(self, lease: str, epoch: int, pod: Pod = POD) -> Any:
        assert self.world.served is not None
        token = self.cluster.token(pod, SystemClock().now())
        stub: Any = session_pb2_grpc.TrainerServiceStub(self.world.served.channel(token))
        families = [pb.OfferedFamily(family="families/constant", available=True)]
        hello = pb.Hello(lease=lease, lease_epoch=epoch, families=families, threads=1)

        async def requests() -> AsyncIterator[pb.OpenSessionRequest]:
            yield pb.OpenSessionRequest(hello=hello)
            while True:
                await asyncio.sleep(0.2)
                yield pb.OpenSessionRequest(heartbeat=pb.Heartbeat())

        return stub.OpenSession(requests())

    async def refusal(self, call: Any) -> AllotmentError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 10)
        return from_rpc_error(caught.value)


async def last_word(session: Any) -> str:
    """The last message before the stream ends."""
    last = ""
    async with asyncio.timeout(5):
        while (message := await session.read()) is not grpc.aio.EOF:
            last = message.WhichOneof("message")
    return last


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    world, cluster = SearchWorld(tmp_path, slot_count=1), Cluster(ec_key())
    world.allocator.on_grant = lambda lease: None
    world.tenants.pod_tokens = cluster.told()
    world.fetches_keys = True
    async with world.open(), world.controller() as stub:
        await until(lambda: _created(stub))
        async with asyncio.timeout(10):
            while not world.allocator.live:  # noqa: ASYNC110 (another server's fact)
                await asyncio.sleep(0.01)
        lease = world.allocator.live[0]
        world.allocator.pods[POD.uid] = (lease.name, lease.epoch)
        yield Held(world=world, cluster=cluster, lease=lease.name)


async def _created(stub: Any) -> None:
    try:
        await create(stub, spec(trial_count=3))
    except grpc.aio.AioRpcError as e:
        raise from_rpc_error(e) from None


async def test_a_pod_works_for_its_own_lease_alone(held: Held) -> None:
    session = held.session(held.lease, 1)
    said = [(await session.read()).WhichOneof("message") for _ in range(2)]
    assert said == ["welcome", "assignment"]
    session.cancel()
    for lease in ("tenants/local/leases/other", "tenants/other/leases/l1"):
        assert isinstance(await held.refusal(held.session(lease, 1)), NotFound)
    assert (await held.refusal(held.session(held.lease, 2))).reason == "OTHER_LEASE"
    nobody = await held.refusal(held.session(held.lease, 1, Pod(POD.namespace, "uid-2")))
    assert isinstance(nobody, Unauthenticated)


async def test_a_session_ends_with_its_lease_and_is_not_opened_again(held: Held) -> None:
    session = held.session(held.lease, 1)
    assert (await session.read()).HasField("welcome")
    held.world.allocator.end(held.lease, allocator_pb2.LEASE_STATE_EXPIRED)
    assert await last_word(session) == "revoke"
    # The pod is known for some seconds more; the lease's end is known at once.
    refused = await held.refusal(held.session(held.lease, 1))
    assert refused.reason == "LEASE_ENDED"


async def test_a_pod_of_an_older_epoch_is_fenced(held: Held) -> None:
    session = held.session(held.lease, 1)
    assert (await session.read()).HasField("welcome")
    held.world.allocator.restart(held.lease)
    assert await last_word(session) == "revoke"
    assert (await held.refusal(held.session(held.lease, 1))).reason == "LEASE_ENDED"
