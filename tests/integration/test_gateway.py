"""The gateway passes on what it is given, both ways, and nothing of its own."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_api.trainer.v1 import session_pb2, session_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    AllotmentError,
    DeadlineExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from allotment_core.rpc import RpcServer
from allotment_core.rpc.chain import Limits
from allotment_core.rpc.client import channel, from_rpc_error
from allotment_gateway.adapters import upstreams
from allotment_gateway.build import Gateway, build
from allotment_gateway.config import GatewayConfig, GatewayServer
from allotment_gateway.domain.routes import SERVICES
from allotment_testkit.authority import Authority
from allotment_testkit.rpc import Network, Served, new_signer, serving
from allotment_testkit.stub_services import Stubs

OURS = "tenants/local"
BLOB = f"{OURS}/blobs/" + "a" * 64
LEASE = f"{OURS}/leases/l1"


def config(*addresses: str, **settings: Any) -> GatewayConfig:
    places: dict[str, Any] = {f"{name}_addresses": addresses for name in SERVICES}
    return GatewayConfig(**places, **settings)


@asynccontextmanager
async def gateway_to(*addresses: str, drain_s: float = 0.2) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway with the same addresses for every service, and its own."""
    gateway = build(config(*addresses, drain_s=drain_s), GatewayServer(address="127.0.0.1:0"))
    port = await gateway.start()
    try:
        yield gateway, f"127.0.0.1:{port}"
    finally:
        await gateway.stop()


@pytest.fixture
def stubs() -> Stubs:
    return Stubs()


@pytest.fixture
async def served(stubs: Stubs) -> AsyncIterator[Served]:
    async with serving(*stubs.services, limits=Limits(unary_s=30.0)) as running:
        yield running


@pytest.fixture
async def through(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    """An editor's channel to the stubs, through a gateway."""
    async with gateway_to(served.address) as (_, address):
        yield served.channel(address=address)


async def get_tenant(opened: grpc.aio.Channel, name: str = OURS, **options: Any) -> Any:
    stub: Any = allocator_pb2_grpc.TenantServiceStub(opened)
    return await stub.GetTenant(pb.GetTenantRequest(name=name), **options)


async def failure(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def read_blob(opened: grpc.aio.Channel) -> Any:
    stub: Any = blob_pb2_grpc.BlobServiceStub(opened)
    return stub.ReadBlob(blob_pb2.ReadBlobRequest(name=BLOB))


async def put_blob(opened: grpc.aio.Channel, chunks: int) -> int:
    async def requests() -> AsyncIterator[Any]:
        for place in range(chunks):
            yield blob_pb2.PutBlobRequest(parent="" if place else OURS, data=b"x" * (1 << 20))

    stub: Any = blob_pb2_grpc.BlobServiceStub(opened)
    return int((await stub.PutBlob(requests())).blob.size_bytes)


async def test_all_four_kinds_pass(through: grpc.aio.Channel, served: Served) -> None:
    assert (await get_tenant(through)).tenant.etag == "test-editor"
    assert await put_blob(through, 5) == 5 << 20
    assert b"".join([r.data async for r in read_blob(through)]) == bytes(range(9)) + b"end"
    async with gateway_to(served.address) as (_, address):
        trainer = served.channel(
            served.token(Role.TRAINER, lease=LEASE, lease_epoch=1), address=address
        )
        stub: Any = session_pb2_grpc.TrainerServiceStub(trainer)
        session = stub.OpenSession()
        for _ in range(3):
            hello = session_pb2.Hello(lease=LEASE)
            await session.write(session_pb2.OpenSessionRequest(hello=hello))
            assert (await session.read()).HasField("welcome")
        await session.done_writing()
        assert await session.read() is grpc.aio.EOF


async def test_the_services_errors_pass_as_they_are(
    through: grpc.aio.Channel, stubs: Stubs, served: Served
) -> None:
    stubs.tenants.trouble = NotFound("no such thing", reason="THING_GONE", retry_after_s=7.0)
    error = await failure(get_tenant(through))
    assert (type(error), error.reason, error.message) == (NotFound, "THING_GONE", "no such thing")
    assert error.retry_after_s == 7.0
    async with gateway_to(served.address) as (_, address):
        nobody = served.channel("", address=address)
        assert isinstance(await failure(get_tenant(nobody)), Unauthenticated)


async def test_the_callers_deadline_is_the_services(
    through: grpc.aio.Channel, stubs: Stubs
) -> None:
    stubs.tenants.pause_s = 300.0
    error = await failure(get_tenant(through, timeout=1.5))
    assert isinstance(error, DeadlineExceeded)
    await asyncio.wait_for(stubs.tenants.left.wait(), 20.0)
    assert 0 < stubs.tenants.time_left_s < 3.0


async def test_a_cancelled_stream_is_cancelled_at_the_service(
    through: grpc.aio.Channel, stubs: Stubs
) -> None:
    stubs.blobs.endless = True
    call = read_blob(through)
    await call.read()
    assert stubs.blobs.open_streams == 1
    call.cancel()
    await asyncio.wait_for(stubs.blobs.one_closed.wait(), 20.0)


class Flood:
    """A blob without end, in chunks of 1 MiB; counts what was taken from it."""

    def __init__(self, stubs: Stubs) -> None:
        self.sent = 0
        stubs.blobs.ReadBlob = self.ReadBlob  # type: ignore[method-assign]

    async def ReadBlob(self, _request: Any, _context: Any) -> AsyncIterator[Any]:
        while True:
            yield blob_pb2.ReadBlobResponse(data=b"x" * (1 << 20))
            self.sent += 1


async def test_a_slow_reader_slows_the_service_down(stubs: Stubs) -> None:
    flood = Flood(stubs)
    async with serving(*stubs.services) as served, gateway_to(served.address) as (_, address):
        call = read_blob(served.channel(address=address))
        await call.read()
        before = -1
        while before != flood.sent:  # Until nothing moves any more.
            before = flood.sent
            await asyncio.sleep(0.3)
        assert flood.sent < 32
        for _ in range(40):
            await call.read()
        assert flood.sent >= 40
        call.cancel()


async def test_a_service_that_is_away_is_named_and_comes_back(served: Served) -> None:
    async with Network(served.port) as network:
        address = f"127.0.0.1:{network.port}"
        async with gateway_to(address) as (_, at):
            opened = served.channel(address=at)
            await get_tenant(opened)
            await network.down()
            error = await failure(get_tenant(opened))
            assert isinstance(error, Unavailable)
            assert error.reason == "SERVICE_AWAY"
            assert "allocator" in error.message
            await network.up()
            patient = channel(at, token=served.token(), retry_s=30.0)
            async with patient:
                assert await get_tenant(patient)


async def test_calls_take_turns_and_pass_a_server_that_is_away(served: Served) -> None:
    other = Stubs()
    async with (
        serving(*other.services, signer=served.signer) as second,
        Network(served.port) as network,
        gateway_to(f"127.0.0.1:{network.port}", second.address) as (_, at),
    ):
        opened = served.channel(address=at)
        await serving_state(at, "dataset")
        for _ in range(8):
            await get_tenant(opened)
        counts = [calls_of(each.server) for each in (served, second)]
        assert all(count >= 2 for count in counts), counts
        await network.down()
        await until_all_pass(opened)


def calls_of(server: RpcServer) -> float:
    value = server.metrics.registry.get_sample_value(
        "allotment_rpc_calls_total",
        {"method": "/allotment_api.allocator.v1.TenantService/GetTenant", "code": "OK"},
    )
    return value or 0.0


async def until_all_pass(opened: grpc.aio.Channel) -> None:
    """Eight calls in a row pass, once the gateway has noticed."""
    async with asyncio.timeout(30.0):
        passed = 0
        while passed < 8:
            try:
                await get_tenant(opened)
                passed += 1
            except grpc.aio.AioRpcError:
                passed = 0


async def serving_state(address: str, name: str) -> None:
    """Returns once the gateway says SERVING of the name."""
    async with grpc.aio.insecure_channel(address) as opened:
        watch: Any = opened.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        async with asyncio.timeout(30.0):
            async for answer in watch(health_pb2.HealthCheckRequest(service=name)):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return


async def test_health_tells_of_each_service(served: Served) -> None:
    async with gateway_to(served.address) as (_, at):
        await serving_state(at, "")
        await serving_state(at, "allotment_api.search.v1.SearchService")
        await serving_state(at, "exporter")


async def test_a_drain_ends_streams_with_a_reason(served: Served, stubs: Stubs) -> None:
    stubs.blobs.endless = True
    stubs.tenants.pause_s = 0.3
    async with gateway_to(served.address, drain_s=3.0) as (gateway, at):
        opened = served.channel(address=at)
        call = read_blob(opened)
        await call.read()
        unary = asyncio.create_task(get_tenant(opened))
        await asyncio.wait_for(stubs.tenants.entered.wait(), 20.0)
        await gateway.stop()
        assert (await unary).tenant.name == OURS

        async def rest() -> None:
            while await call.read() is not grpc.aio.EOF:
                pass

        error = await failure(rest())
        assert (type(error), error.reason) == (Unavailable, "SHUTTING_DOWN")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GATEWAY_SERVICES_CA_FILE", "/no/ca.pem", "/no/ca.pem can't be used: No such file or"),
        ("LOG_LEVEL", "LOUD", "the log level 'LOUD' is none of"),
    ],
)
def test_settings_that_can_not_be_used_are_named(name: str, value: str, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "allotment_gateway"],
        env={**os.environ, f"ALLOTMENT_{name}": value},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(said)


@pytest.mark.parametrize("path", ["/allotment_api.nothing.v1.S/M", "/x", "/no.Service/At"])
async def test_what_nobody_serves_is_unimplemented(path: str, served: Served) -> None:
    async with gateway_to(served.address) as (_, at):
        call: Any = served.channel(address=at).unary_unary(path)
        error = await failure(call(b""))
        assert isinstance(error, Unimplemented)


async def test_tls_before_and_behind_it(stubs: Stubs, tmp_path: Path) -> None:
    authority, signer, clock = Authority(), new_signer(), SystemClock()
    server = RpcServer(
        stubs.services,
        TokenVerifier(signer.public_key_pem, clock),
        clock,
        "127.0.0.1:0",
        tls=authority.issue(tmp_path / "dataset", "dataset"),
    )
    own = authority.issue(tmp_path / "gateway", "gateway")
    async with contextlib.AsyncExitStack() as stack:
        served = Served(server, await server.start(), signer, clock)
        stack.push_async_callback(server.stop, 0)
        stack.push_async_callback(served.close)
        gateway = build(
            config(served.address, services_ca_file=own.ca),
            GatewayServer(
                address="127.0.0.1:0",
                certificate_file=own.certificate,
                private_key_file=own.key,
                health_address="127.0.0.1:0",
                metrics_port=0,
            ),
        )
        at = f"127.0.0.1:{await gateway.start()}"
        stack.push_async_callback(gateway.stop, 0)
        assert await get_tenant(served.channel(address=at, ca=authority.pem))
        assert isinstance(await failure(get_tenant(served.channel(address=at))), Unavailable)
        await serving_state(f"127.0.0.1:{gateway.health_port}", "dataset")


async def test_a_replaced_authority_counts_without_a_restart(
    stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "LOOK_AT_FILES_S", 0.05)
    before, after, signer, clock = Authority(), Authority(), new_signer(), SystemClock()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(before.pem)
    async with contextlib.AsyncExitStack() as stack:

        async def serve(authority: Authority, address: str) -> Served:
            tls = authority.issue(tmp_path / "tls", "dataset")
            verifier = TokenVerifier(signer.public_key_pem, clock)
            server = RpcServer(stubs.services, verifier, clock, address, tls=tls)
            running = Served(server, await server.start(), signer, clock)
            stack.push_async_callback(server.stop, 0)
            stack.push_async_callback(running.close)
            return running

        served = await serve(before, "127.0.0.1:0")
        settings = config(served.address, services_ca_file=ca)
        gateway = build(settings, GatewayServer(address="127.0.0.1:0"))
        at = f"127.0.0.1:{await gateway.start()}"
        stack.push_async_callback(gateway.stop, 0)
        opened = served.channel(address=at)
        assert await get_tenant(opened)
        await serving_state(at, "dataset")

        aside = tmp_path / "aside"
        aside.write_bytes(before.pem + after.pem)
        aside.replace(ca)
        await served.server.stop(0)
        await serve(after, served.address)
        async with asyncio.timeout(20):
            await until_all_pass(opened)
            await serving_state(at, "dataset")
