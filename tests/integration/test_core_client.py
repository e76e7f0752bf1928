"""The client's end: lost answers, servers that go away, tokens, deadlines."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.db import Database
from allotment_core.errors import DeadlineExceeded, InvalidArgument, Unauthenticated, Unavailable
from allotment_core.rpc.chain import Limits
from allotment_core.rpc.client import OPTIONS, from_rpc_error, is_loopback, request_id
from allotment_testkit.db import opened_database
from allotment_testkit.rpc import Network, Served, serving
from allotment_testkit.stub_services import TENANT_TABLE, Stubs

OURS = "tenants/local"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened_database(tmp_path, [TENANT_TABLE]) as opened:
        yield opened


@pytest.fixture
def stubs(database: Database) -> Stubs:
    return Stubs(database)


@pytest.fixture
async def served(stubs: Stubs) -> AsyncIterator[Served]:
    async with serving(stubs.service) as running:
        yield running


def tenants(channel: grpc.aio.Channel) -> Any:
    return allocator_pb2_grpc.TenantServiceStub(channel)


def create(text: str = "a", id_: str | None = None) -> pb.CreateTenantRequest:
    return pb.CreateTenantRequest(request_id=id_ or request_id(), tenant_id=text)


async def rows(database: Database) -> int:
    count = "SELECT count(*) FROM tenant"
    return int(await database.read(lambda c: c.exec_driver_sql(count).scalar_one()))


async def test_a_lost_answer_is_asked_for_again_and_changes_nothing(
    served: Served, stubs: Stubs, database: Database
) -> None:
    async with Network(served.port) as network:
        outages: list[float] = []

        def on_outage(away_s: float) -> None:
            outages.append(away_s)
            network.deaf = False

        stub = tenants(
            served.channel(
                served.token(Role.ADMIN),
                address=f"127.0.0.1:{network.port}",
                retry_s=20.0,
                on_outage=on_outage,
            )
        )
        first = await stub.CreateTenant(create("first"))
        network.deaf = True
        lost = asyncio.ensure_future(stub.CreateTenant(create("lost")))
        while await rows(database) < 2:  # noqa: ASYNC110 (what is waited for is in the database)
            await asyncio.sleep(0.01)
        assert not lost.done()
        network.cut()
        assert (await lost).tenant.name == "tenants/t2"
        assert first.tenant.name == "tenants/t1"
        assert await rows(database) == 2
        assert stubs.tenants.create_calls == 2
        assert outages


async def test_the_same_id_with_another_body_is_refused(served: Served, database: Database) -> None:
    stub = tenants(served.channel(served.token(Role.ADMIN)))
    await stub.CreateTenant(create("a", "same"))
    assert (await stub.CreateTenant(create("a", "same"))).tenant.name == "tenants/t1"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateTenant(create("b", "same"))
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgument)
    assert error.reason == "REQUEST_ID_REUSED"
    assert await rows(database) == 1


async def test_the_same_calls_at_once_change_once(served: Served, database: Database) -> None:
    stub = tenants(served.channel(served.token(Role.ADMIN)))
    answers = await asyncio.gather(*(stub.CreateTenant(create("a", "same")) for _ in range(30)))
    assert {answer.tenant.name for answer in answers} == {"tenants/t1"}
    assert await rows(database) == 1


async def test_calls_ride_out_an_outage_and_come_back_fast(served: Served) -> None:
    async with Network(served.port) as network:
        outages: list[float] = []
        channel = served.channel(
            address=f"127.0.0.1:{network.port}", retry_s=20.0, on_outage=outages.append
        )
        stub = tenants(channel)
        await stub.GetTenant(pb.GetTenantRequest(name=OURS))
        await network.down()
        waiting = asyncio.ensure_future(stub.GetTenant(pb.GetTenantRequest(name=OURS)))
        async with asyncio.timeout(18.0):
            while not outages or outages[-1] < 0.5:  # noqa: ASYNC110 (told without an event)
                await asyncio.sleep(0.05)
        assert not waiting.done()
        assert outages == sorted(outages)
        await network.up()
        await waiting


async def test_a_channel_connects_soon_after_the_server_is_back(served: Served) -> None:
    assert dict(OPTIONS)["grpc.max_reconnect_backoff_ms"] <= 200
    async with Network(served.port) as network:
        channel = served.channel(address=f"127.0.0.1:{network.port}")
        await channel.channel_ready()
        await network.down()
        away = time.monotonic()
        while time.monotonic() - away < 3:
            channel.get_state(try_to_connect=True)
            await asyncio.sleep(0.02)
        await network.up()
        await asyncio.wait_for(channel.channel_ready(), 20)


async def test_patience_ends(served: Served) -> None:
    async with Network(served.port) as network:
        stub = tenants(served.channel(address=f"127.0.0.1:{network.port}", retry_s=0.5))
        await network.down()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stub.GetTenant(pb.GetTenantRequest(name=OURS)), 30)
        error = from_rpc_error(caught.value)
        assert isinstance(error, Unavailable)
        assert "can't be reached" in error.message


async def test_a_callers_timeout_bounds_all_attempts(served: Served) -> None:
    async with Network(served.port) as network:
        stub = tenants(served.channel(address=f"127.0.0.1:{network.port}", retry_s=60.0))
        await network.down()
        call = stub.GetTenant(pb.GetTenantRequest(name=OURS), timeout=0.6)
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(call, 30)


async def test_a_call_without_a_timeout_has_one(served: Served, stubs: Stubs) -> None:
    stubs.tenants.pause_s = 300
    stub = tenants(served.channel(timeout_s=0.2))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetTenant(pb.GetTenantRequest(name=OURS))
    assert isinstance(from_rpc_error(caught.value), DeadlineExceeded)


async def test_a_handler_ends_with_its_callers_deadline(served: Served, stubs: Stubs) -> None:
    stubs.tenants.pause_s = 300
    stub = tenants(served.channel())
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GetTenant(pb.GetTenantRequest(name=OURS), timeout=1.5)
    await asyncio.wait_for(stubs.tenants.left.wait(), 20)


async def test_a_frozen_server_counts_as_an_outage(served: Served, stubs: Stubs) -> None:
    stubs.tenants.pause_s = 300

    def thaw(_away_s: float) -> None:
        stubs.tenants.pause_s = 0

    stub = tenants(served.channel(timeout_s=1.0, retry_s=40.0, on_outage=thaw))
    answer = await stub.GetTenant(pb.GetTenantRequest(name=OURS))
    assert answer.tenant.name == OURS


async def test_a_servers_own_deadline_is_not_repeated(stubs: Stubs) -> None:
    stubs.tenants.pause_s = 5
    outages: list[float] = []
    async with serving(stubs.service, limits=Limits(unary_s=0.1)) as served:
        stub = tenants(served.channel(retry_s=10.0, on_outage=outages.append))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTenant(pb.GetTenantRequest(name=OURS))
    assert from_rpc_error(caught.value).retry_after_s == 1.0
    assert outages == []


async def test_a_token_source_is_asked_at_each_call(served: Served) -> None:
    tokens = iter([served.token(), "not one"])
    stub = tenants(served.channel("", token_source=lambda: next(tokens)))
    await stub.GetTenant(pb.GetTenantRequest(name=OURS))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetTenant(pb.GetTenantRequest(name=OURS))
    assert isinstance(from_rpc_error(caught.value), Unauthenticated)


async def test_a_cancelled_call_is_not_repeated(served: Served, stubs: Stubs) -> None:
    stubs.tenants.pause_s = 5
    outages: list[float] = []
    stub = tenants(served.channel(retry_s=10.0, on_outage=outages.append))
    call = asyncio.ensure_future(stub.GetTenant(pb.GetTenantRequest(name=OURS)))
    await asyncio.wait_for(stubs.tenants.entered.wait(), 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert outages == []


async def test_no_proxy_is_asked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    answer = await tenants(served.channel()).GetTenant(pb.GetTenantRequest(name=OURS))
    assert answer.tenant.name == OURS


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/tmp/x", True),
        ("127.evil.example:1", False),
        ("example.com:443", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
    ],
)
def test_plaintext_goes_to_loopback_alone(address: str, local: bool) -> None:
    assert is_loopback(address) is local


SERVER_ONLY = ("sqlalchemy", "alembic", "jwt", "cryptography", "prometheus_client", "pyarrow")
HEAVY = ("alembic", "torch", "sklearn", "lightgbm", "onnxruntime", "pyarrow", "numpy")


def imported(statement: str, modules: tuple[str, ...]) -> str:
    code = f"import sys; {statement}; print([m for m in {modules!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_clients_need_the_base_install_alone() -> None:
    statement = (
        "import allotment_core.rpc.client, allotment_core.names, allotment_core.errors, "
        "allotment_core.clock, allotment_core.rpc.status, allotment_core.paging"
    )
    assert imported(statement, SERVER_ONLY) == "[]"


def test_servers_import_nothing_heavy() -> None:
    statement = "import allotment_core.rpc.server, allotment_core.db, allotment_core.auth.tokens"
    assert imported(statement, HEAVY) == "[]"
