"""TLS: what each listener asks for, whom it takes for whom, and files that are replaced."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc
from allotment_core.auth.principal import Principal, Role
from allotment_core.auth.tokens import TokenSigner, TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from allotment_core.names import TenantName
from allotment_core.rpc import RpcServer, ServicesListener, TlsFiles
from allotment_core.rpc import client as rpc_client
from allotment_core.rpc.client import channel, from_rpc_error
from allotment_core.rpc.fetched_keys import SOONEST_S, FetchedKeys
from allotment_core.rpc.tls import WatchedFiles
from allotment_testkit.authority import Authority
from allotment_testkit.clock import ManualClock
from allotment_testkit.rpc import Network, Served, new_signer, serving
from allotment_testkit.stub_services import Stubs

OURS = "tenants/local"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class TlsServed(Served):
    """A server with a listener for clients, one for services, and one for health."""

    def channel_as(self, files: TlsFiles, token: str = "") -> grpc.aio.Channel:
        """To the services' listener, showing a certificate."""
        address = f"127.0.0.1:{self.server.services_port}"
        return self.channel(token, address=address, tls=files)


@pytest.fixture
async def served(authority: Authority, tmp_path: Path) -> AsyncIterator[TlsServed]:
    signer, clock = new_signer(), SystemClock()
    tls = authority.issue(tmp_path / "dataset", "dataset")
    server = RpcServer(
        [Stubs().service],
        TokenVerifier(signer.public_key_pem, clock),
        clock,
        "127.0.0.1:0",
        tls=tls,
        for_services=ServicesListener(
            address="127.0.0.1:0",
            tls=tls,
            callers={"controller": Role.ADMIN, "reader": Role.SERVICE},
        ),
        health_address="127.0.0.1:0",
    )
    running = TlsServed(server, await server.start(), signer, clock)
    yield running
    await running.close()
    await server.stop(0)


async def caller(channel: grpc.aio.Channel, name: str = OURS) -> str:
    """Whom the server takes the channel for: the stub answers with the subject."""
    stub: Any = allocator_pb2_grpc.TenantServiceStub(channel)
    return str((await stub.GetTenant(pb.GetTenantRequest(name=name), timeout=5)).tenant.etag)


async def refusal(channel: grpc.aio.Channel) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller(channel)
    return from_rpc_error(caught.value)


async def test_a_service_is_known_by_its_certificate(
    served: TlsServed, authority: Authority, tmp_path: Path
) -> None:
    channel = served.channel_as(authority.issue(tmp_path / "c", "controller"))
    assert await caller(channel) == "service/controller"
    assert await caller(channel, "tenants/other") == "service/controller"


async def test_another_services_certificate_needs_a_token(
    served: TlsServed, authority: Authority, tmp_path: Path
) -> None:
    gateway = authority.issue(tmp_path / "g", "gateway")
    error = await refusal(served.channel_as(gateway))
    assert isinstance(error, Unauthenticated)
    assert error.reason == "UNKNOWN_SERVICE_CERTIFICATE"
    assert await caller(served.channel_as(gateway, served.token())) == "test-editor"


async def test_a_token_counts_more_than_the_certificate(
    served: TlsServed, authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue(tmp_path / "c", "controller")
    assert await caller(served.channel_as(files, served.token(Role.VIEWER))) == "test-viewer"
    error = await refusal(served.channel_as(files, "not.a.token"))
    assert error.reason == "INVALID_TOKEN"


async def test_a_certificate_of_another_authority_does_not_connect(
    served: TlsServed, authority: Authority, tmp_path: Path
) -> None:
    forged = Authority().issue(tmp_path / "forged", "controller")
    (tmp_path / "forged" / "ca.crt").write_bytes(authority.pem)
    assert isinstance(await refusal(served.channel_as(forged)), Unavailable)
    without = served.channel("", address=f"127.0.0.1:{served.server.services_port}", ca=forged.ca)
    assert isinstance(await refusal(without), Unavailable)


async def test_clients_need_a_token_and_no_certificate(
    served: TlsServed, authority: Authority, tmp_path: Path
) -> None:
    assert await caller(served.channel(ca=authority.pem)) == "test-editor"
    shown = authority.issue(tmp_path / "c", "controller")
    error = await refusal(served.channel("", tls=shown))
    assert error.reason == "MISSING_TOKEN"


async def test_the_health_port_answers_health_alone(served: TlsServed) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.health_port}") as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub: Any = allocator_pb2_grpc.TenantServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTenant(
                pb.GetTenantRequest(name=OURS),
                metadata=(("authorization", f"Bearer {served.token(Role.ADMIN)}"),),
            )
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_replaced_files_count_from_the_next_connection_on(
    served: TlsServed, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_client, "LOOK_AT_FILES_S", 0.0)
    lasting = served.channel_as(authority.issue(tmp_path / "c", "controller"))
    assert await caller(lasting) == "service/controller"
    other = Authority()
    other.issue(tmp_path / "dataset", "dataset")
    assert isinstance(await refusal(served.channel(ca=authority.pem)), Unavailable)
    assert await caller(served.channel(ca=other.pem)) == "test-editor"
    # The channel lives on over its old connection, and makes a new one once its own files change.
    assert await caller(lasting) == "service/controller"
    other.issue(tmp_path / "c", "controller")
    assert await caller(lasting) == "service/controller"
    assert await caller(served.channel_as(other.issue(tmp_path / "n", "controller")))


async def test_a_replaced_authority_is_trusted_without_a_new_channel(
    served: TlsServed, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_client, "LOOK_AT_FILES_S", 0.0)
    file = tmp_path / "trusted.crt"
    file.write_bytes(Authority().pem)
    lasting = served.channel(ca=file)
    assert isinstance(await refusal(lasting), Unavailable)
    # Half of a file, as while it is being written, is not taken over.
    file.write_bytes(authority.pem[:100])
    assert isinstance(await refusal(lasting), Unavailable)
    file.write_bytes(authority.pem)
    assert await caller(lasting) == "test-editor"
    file.unlink()
    assert await caller(lasting) == "test-editor"


async def test_a_services_role_is_all_that_it_may_do(
    served: TlsServed, authority: Authority, tmp_path: Path
) -> None:
    """One that asks for keys alone reads no tenant's things."""
    reader = served.channel_as(authority.issue(tmp_path / "r", "reader"))
    stub: Any = allocator_pb2_grpc.TenantServiceStub(reader)
    await stub.FetchTokenKeys(pb.FetchTokenKeysRequest())
    assert isinstance(await refusal(reader), PermissionDenied)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListTenants(pb.ListTenantsRequest())
    assert isinstance(from_rpc_error(caught.value), PermissionDenied)


async def test_tokens_are_verified_with_the_allocators_keys() -> None:
    stubs, clock = Stubs(), ManualClock()
    first, second = new_signer(), new_signer()
    stubs.tenants.public_keys = [first.public_key_pem.decode()]
    async with serving(stubs.service) as served, Network(served.port) as network:
        allocator = channel(f"127.0.0.1:{network.port}", token=served.token(), retry_s=0.0)
        await network.down()
        keys = FetchedKeys(allocator, clock)
        token = token_of(first, clock)
        with pytest.raises(Unavailable, match="being fetched"):
            keys.verify(token)
        await network.up()
        assert (await verified(keys, token)).subject == "ann"
        # A key that is new: the allocator is asked again, soon and not at every call.
        stubs.tenants.public_keys.insert(0, second.public_key_pem.decode())
        with pytest.raises(Unauthenticated):
            keys.verify(token_of(second, clock))
        clock.advance(SOONEST_S)
        assert (await verified(keys, token_of(second, clock))).subject == "ann"
        assert (await verified(keys, token)).subject == "ann"
        clock.advance(SOONEST_S)
        stubs.tenants.public_keys = [second.public_key_pem.decode()]
        with pytest.raises(Unavailable):
            keys.verify(token_of(new_signer(), clock))
        with pytest.raises(Unauthenticated, match="not one of this server's"):
            await until_refused(keys, token)


async def test_keys_are_fetched_once_the_token_for_it_is_there(tmp_path: Path) -> None:
    stubs, clock, signer = Stubs(), ManualClock(), new_signer()
    stubs.tenants.public_keys = [signer.public_key_pem.decode()]
    file = tmp_path / "token"
    async with serving(stubs.service) as served:
        keys = FetchedKeys(channel(served.address, token_source=file.read_text), clock)
        with pytest.raises(Unavailable):
            keys.verify(token_of(signer, clock))
        for _ in range(10):  # It has found no token.
            await asyncio.sleep(0)
        file.write_text(served.token())
        assert (await verified(keys, token_of(signer, clock))).subject == "ann"


async def test_a_server_says_serving_once_it_has_the_keys() -> None:
    stubs, clock = Stubs(), SystemClock()
    stubs.tenants.public_keys = [new_signer().public_key_pem.decode()]
    async with serving(stubs.service) as served, Network(served.port) as network:
        await network.down()
        allocator = channel(f"127.0.0.1:{network.port}", token=served.token(), retry_s=0.0)
        keys = FetchedKeys(allocator, clock)
        server = RpcServer([Stubs().service], keys, clock, "127.0.0.1:0")
        port = await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as asking:
                watch = asking.unary_stream(
                    "/grpc.health.v1.Health/Watch",
                    request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                    response_deserializer=health_pb2.HealthCheckResponse.FromString,
                )
                said: Any = watch(health_pb2.HealthCheckRequest())
                assert (await said.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                await network.up()
                assert (await said.read()).status == health_pb2.HealthCheckResponse.SERVING
        finally:
            await server.stop(0.5)


def token_of(signer: TokenSigner, clock: ManualClock) -> str:
    return signer.issue("ann", TenantName("local"), Role.EDITOR, 600, clock.now())


async def verified(keys: FetchedKeys, token: str) -> Principal:
    async with asyncio.timeout(10.0):
        while True:
            try:
                holder = keys.verify(token)
                return holder if isinstance(holder, Principal) else await holder
            except Unavailable:
                await asyncio.sleep(0.02)


async def until_refused(keys: FetchedKeys, token: str) -> None:
    async with asyncio.timeout(10.0):
        while True:
            keys.verify(token)
            await asyncio.sleep(0.02)


def test_files_that_do_not_fit_each_other_are_not_taken_over(
    authority: Authority, tmp_path: Path
) -> None:
    watched = WatchedFiles(authority.issue(tmp_path / "a", "dataset"))
    before = watched.pems
    assert watched.changed() is None
    renewed = authority.issue(tmp_path / "b", "dataset")
    (tmp_path / "a" / "tls.crt").write_bytes(renewed.certificate.read_bytes())
    assert watched.changed() is None
    (tmp_path / "a" / "tls.key").write_bytes(renewed.key.read_bytes())
    after = watched.changed()
    assert after is not None
    assert after.certificate != before.certificate
    assert watched.changed() is None


def test_unusable_files_are_named(tmp_path: Path) -> None:
    files = TlsFiles(certificate=tmp_path / "no.crt", key=tmp_path / "no.key")
    with pytest.raises(FailedPrecondition, match=r"no\.crt") as caught:
        WatchedFiles(files)
    assert caught.value.reason == "INVALID_TLS_FILES"
