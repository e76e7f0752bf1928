"""What a server does around its calls: drain, ports, metrics, TLS; what keeps it from starting."""

import asyncio
import socket
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from allotment_core.rpc import RpcServer, Service
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.authority import Authority
from allotment_testkit.rpc import Served, new_signer, serving
from allotment_testkit.stub_services import Stubs

OURS = "tenants/local"
BLOB = f"{OURS}/blobs/" + "a" * 64
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
GET_TENANT = "/allotment_api.allocator.v1.TenantService/GetTenant"


@pytest.fixture
def stubs() -> Stubs:
    return Stubs()


async def get_tenant(channel: grpc.aio.Channel, name: str = OURS) -> Any:
    stub: Any = allocator_pb2_grpc.TenantServiceStub(channel)
    return await stub.GetTenant(pb.GetTenantRequest(name=name))


async def failure(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def admin(served: Served) -> grpc.aio.Channel:
    return served.channel(served.token(Role.ADMIN))


async def test_draining_says_so_first_and_ends_streams(stubs: Stubs) -> None:
    stubs.blobs.endless = True
    stubs.tenants.pause_s = 300.0
    stopped_while: list[bool] = []

    serving_now: list[Served] = []

    async def stop() -> None:
        stubs.tenants.pause_s = 0.0
        answer = await get_tenant(admin(serving_now[0]))
        stopped_while.append(answer.tenant.name == OURS)

    service = Service(name="s", servicers=stubs.service.servicers, stop=stop)
    async with serving(service, grace_s=2) as served:
        serving_now.append(served)
        watch = served.raw_channel().unary_stream(HEALTH_WATCH)(b"")
        assert await watch.read() == b"\x08\x01"
        stub: Any = blob_pb2_grpc.BlobServiceStub(served.channel())
        stream = stub.ReadBlob(blob_pb2.ReadBlobRequest(name=BLOB))
        await stream.read()
        running = asyncio.ensure_future(get_tenant(admin(served)))
        await asyncio.wait_for(stubs.tenants.entered.wait(), 20)
        stopping = asyncio.create_task(served.server.stop(20))
        assert await watch.read() == b"\x08\x02"

        async def rest() -> None:
            while await stream.read() is not grpc.aio.EOF:
                pass

        error = await failure(rest())
        assert error.reason == "SHUTTING_DOWN"
        assert not running.done()
        stubs.tenants.go_on.set()
        assert (await running).tenant.name == OURS
        await stopping
        assert stopped_while == [True]
        assert stubs.blobs.open_streams == 0


async def test_calls_that_outlast_the_grace_are_ended_as_unavailable() -> None:
    stubs = Stubs()
    stubs.tenants.pause_s = 300
    async with serving(stubs.service) as served:
        running = asyncio.ensure_future(get_tenant(admin(served)))
        await asyncio.wait_for(stubs.tenants.entered.wait(), 20)
        await asyncio.wait_for(served.server.stop(0.1), 30)
        assert isinstance(await failure(running), Unavailable)


async def test_metrics_count_calls_by_method_and_code(stubs: Stubs) -> None:
    signer = new_signer()
    clock = SystemClock()
    verifier = TokenVerifier(signer.public_key_pem, clock)
    server = RpcServer([stubs.service], verifier, clock, "127.0.0.1:0", metrics_port=0)
    served = Served(server, await server.start(), signer, clock)
    try:
        await get_tenant(admin(served))
        await failure(get_tenant(admin(served), "nonsense"))
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    finally:
        await served.close()
        await server.stop(0)
    path = GET_TENANT
    assert f'allotment_rpc_calls_total{{code="OK",method="{path}"}} 1.0' in page
    assert f'allotment_rpc_calls_total{{code="INVALID_ARGUMENT",method="{path}"}} 1.0' in page
    assert f'allotment_rpc_duration_seconds_count{{method="{path}"}} 2.0' in page
    assert f'allotment_rpc_in_flight{{method="{path}"}} 0.0' in page


async def test_two_servers_do_not_share_a_port(stubs: Stubs) -> None:
    verifier: Any = None
    async with serving(stubs.service) as served:
        second = RpcServer([], verifier, SystemClock(), served.address)
        with pytest.raises(FailedPrecondition, match=str(served.port)) as caught:
            await second.start()
    assert caught.value.reason == "ADDRESS_IN_USE"


async def test_a_port_for_metrics_that_is_taken_is_named() -> None:
    verifier: Any = None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = RpcServer([], verifier, SystemClock(), "127.0.0.1:0", metrics_port=port)
        with pytest.raises(FailedPrecondition, match=str(port)) as caught:
            await server.start()
    assert caught.value.reason == "ADDRESS_IN_USE"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.com:80", "10.0.0.1:1"])
def test_plaintext_stays_on_loopback(address: str) -> None:
    verifier: Any = None
    with pytest.raises(InvalidArgument, match="loopback"):
        RpcServer([], verifier, SystemClock(), address)


def test_a_method_without_a_rule_keeps_the_server_from_starting() -> None:
    def add(servicer: Any, server: Any) -> None:
        handlers: Any = {"Check": grpc.unary_unary_rpc_method_handler(servicer)}
        server.add_registered_method_handlers("grpc.health.v1.Health", handlers)

    async def check(_request: Any, _context: Any) -> None:
        """Never called."""

    verifier: Any = None
    service = Service(name="s", servicers=[(add, check)])
    with pytest.raises(ValueError, match=r"grpc\.health\.v1\.Health\.Check has no access rule"):
        RpcServer([service], verifier, SystemClock(), "127.0.0.1:0")


def test_a_method_without_an_implementation_keeps_the_server_from_starting() -> None:
    class Nothing:
        pass

    class Synchronous:
        def GetPool(self, _request: Any, _context: Any) -> None:
            pass

        ListPools = ListNodes = GetPool

    verifier: Any = None
    for servicer in (Nothing(), Synchronous()):
        add = allocator_pb2_grpc.add_PoolServiceServicer_to_server
        service = Service(name="s", servicers=[(add, servicer)])
        with pytest.raises(ValueError, match="GetPool"):
            RpcServer([service], verifier, SystemClock(), "127.0.0.1:0")


async def test_a_service_that_does_not_start_takes_the_server_down(tmp_path: Path) -> None:
    order: list[str] = []

    async def good() -> None:
        order.append("start")

    async def bad() -> None:
        raise FailedPrecondition("no disk")

    async def stop() -> None:
        order.append("stop")

    verifier: Any = None
    services = [
        Service(name="a", servicers=[], start=good, stop=stop),
        Service(name="b", servicers=[], start=bad, stop=stop),
    ]
    with pytest.raises(FailedPrecondition, match="no disk"):
        await RpcServer(services, verifier, SystemClock(), "127.0.0.1:0").start()
    assert order == ["start", "stop"]


async def test_tls_is_spoken_with_the_right_authority_alone(stubs: Stubs, tmp_path: Path) -> None:
    signer, clock = new_signer(), SystemClock()
    verifier = TokenVerifier(signer.public_key_pem, clock)
    authority = Authority()
    tls = authority.issue(tmp_path, "dataset")
    server = RpcServer([stubs.service], verifier, clock, "localhost:0", tls=tls)
    served = Served(server, await server.start(), signer, clock)
    address = f"localhost:{served.port}"
    try:
        await get_tenant(served.channel(address=address, ca=tls.ca))
        await get_tenant(served.channel(address=address, ca=authority.pem))
        ca = Authority().pem
        for channel in (served.channel(address=address, ca=ca), served.channel(address=address)):
            assert isinstance(await failure(get_tenant(channel)), Unavailable)
    finally:
        await served.close()
        await server.stop(0)
