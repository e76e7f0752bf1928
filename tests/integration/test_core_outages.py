"""What a caller hears while the database of a service is away."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.db import reader, writer
from allotment_core.rpc.chain import Limits
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.db import opened_database
from allotment_testkit.postgres import own_server, why_unavailable
from allotment_testkit.rpc import serving
from allotment_testkit.stub_services import TENANT_TABLE, Stubs


async def test_a_call_is_told_of_an_outage_before_its_time_is_over(tmp_path: Path) -> None:
    """So that its client repeats it, as it does not after the server's own deadline."""
    if why_unavailable():
        pytest.skip(why_unavailable())
    assert Limits().unary_s > reader.PATIENCE_S + writer.PATIENCE_S + 1.0
    with own_server() as server:
        async with opened_database(tmp_path, [TENANT_TABLE], url=server.tcp_url) as database:
            stubs = Stubs(database)
            async with serving(replace(stubs.service, database=None)) as served:
                stub: Any = allocator_pb2_grpc.TenantServiceStub(
                    served.channel(served.token(Role.ADMIN))
                )
                request = allocator_pb2.CreateTenantRequest(request_id="r1", tenant_id="t1")
                await asyncio.to_thread(server.stop)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.CreateTenant(request, timeout=40)
                assert from_rpc_error(caught.value).reason == "DATABASE_UNAVAILABLE"
