"""Calls go to those processes of a service that serve, and find new ones; connections age."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.errors import AllotmentError, Unavailable
from allotment_core.rpc import RpcServer
from allotment_core.rpc.client import channel, from_rpc_error
from allotment_testkit.authority import Authority
from allotment_testkit.rpc import Served, new_signer
from allotment_testkit.stub_services import Stubs

OURS = "tenants/local"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SIGNER = new_signer()


@asynccontextmanager
async def process(**settings: Any) -> AsyncIterator[tuple[RpcServer, Stubs, Served]]:
    """One of a service's processes, which stands by."""
    stubs, clock = Stubs(), SystemClock()
    verifier = TokenVerifier(SIGNER.public_key_pem, clock)
    server = RpcServer((), verifier, clock, "127.0.0.1:0", **settings)
    port = await server.stand_by(["allocator", "allotment_api.allocator.v1.TenantService"])
    served = Served(server, port, SIGNER, clock)
    try:
        yield server, stubs, served
    finally:
        await served.close()
        await server.stop(0)


async def get_tenant(opened: grpc.aio.Channel, **options: Any) -> Any:
    stub: Any = allocator_pb2_grpc.TenantServiceStub(opened)
    return await stub.GetTenant(pb.GetTenantRequest(name=OURS), **options)


async def failure(call: Any) -> AllotmentError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def health(served: Served, name: str) -> int:
    check: Any = served.raw_channel().unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return int((await check(health_pb2.HealthCheckRequest(service=name))).status)


async def test_a_process_that_stands_by_lives_and_refuses_calls() -> None:
    async with process() as (server, stubs, served):
        error = await failure(get_tenant(served.channel()))
        assert (type(error), error.reason) == (Unavailable, "STANDBY")
        assert error.retry_after_s
        assert await health(served, "") == SERVING
        for name in ("allocator", "allotment_api.allocator.v1.TenantService", "ready"):
            assert await health(served, name) == NOT_SERVING, name
        server.set_ready()
        assert await health(served, "ready") == SERVING
        assert await health(served, "allocator") == NOT_SERVING
        await server.lead(stubs.services)
        assert await get_tenant(served.channel())
        assert await health(served, "allocator") == SERVING


async def test_calls_follow_the_one_that_serves() -> None:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(process()) for _ in range(2)]
        both = f"{one[2].address},{two[2].address}"
        opened = one[2].channel(address=both, service="allocator", retry_s=20.0)
        await one[0].lead(one[1].services)
        for _ in range(10):
            await get_tenant(opened)
        assert calls_of(one[0]) == 10
        await one[0].stop(0)
        await two[0].lead(two[1].services)
        for _ in range(10):
            await get_tenant(opened)
        assert calls_of(two[0]) == 10


async def test_calls_take_turns_where_all_serve() -> None:
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(process()) for _ in range(3)]
        for server, stubs, _ in running:
            await server.lead(stubs.services)
        every = ",".join(served.address for _, _, served in running)
        opened = running[0][2].channel(address=every, service="allocator")
        async with asyncio.timeout(20):
            while not all(calls_of(server) >= 3 for server, _, _ in running):
                await get_tenant(opened)


async def test_one_that_may_not_act_is_passed_over_until_it_may() -> None:
    async with process() as (server, stubs, served):
        await server.lead(stubs.services)
        opened = served.channel(service="allocator")
        await get_tenant(opened)
        server.set_acting(False)
        async with asyncio.timeout(20):
            await opened.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert isinstance(await failure(get_tenant(opened)), Unavailable)
        assert await health(served, "") == SERVING
        server.set_acting(True)
        assert await get_tenant(served.channel(service="allocator", retry_s=20.0))


def calls_of(server: RpcServer) -> float:
    value = server.metrics.registry.get_sample_value(
        "allotment_rpc_calls_total",
        {"method": "/allotment_api.allocator.v1.TenantService/GetTenant", "code": "OK"},
    )
    return value or 0.0


async def test_health_over_tls_needs_no_token(tmp_path: Path) -> None:
    authority = Authority()
    tls = authority.issue(tmp_path, "allocator")
    async with process(tls=tls) as (server, stubs, served):
        await server.lead(stubs.services)
        opened = served.channel(ca=authority.pem, service="allocator")
        assert await get_tenant(opened)


async def test_calls_outlive_the_connections_that_they_are_made_on() -> None:
    settings = {"connection_age_s": 0.2, "connection_grace_s": 30.0}
    async with process(**settings) as (server, stubs, served):
        await server.lead(stubs.services)
        opened = served.channel(service="allocator")
        ends = time.monotonic() + 3
        count = 0
        while time.monotonic() < ends:
            await get_tenant(opened)
            count += 1
        assert calls_of(server) == count > 10


async def test_a_stream_goes_on_for_the_grace_and_is_ended_then() -> None:
    settings = {"connection_age_s": 0.2, "connection_grace_s": 1.0}
    async with process(**settings) as (server, stubs, served):
        stubs.blobs.endless = True
        await server.lead(stubs.services)
        began = time.monotonic()
        async with channel(served.address, token=served.token(), service="allocator") as opened:
            stub: Any = blob_pb2_grpc.BlobServiceStub(opened)
            call = stub.ReadBlob(blob_pb2.ReadBlobRequest(name=f"{OURS}/blobs/" + "a" * 64))

            async def rest() -> None:
                async for _ in call:
                    pass

            assert isinstance(await failure(rest()), Unavailable)
        assert time.monotonic() - began >= 1.0
