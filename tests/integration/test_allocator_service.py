"""The allocator as it is served, with a host whose trainers do nothing."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from allotment_allocator.adapters.process_journal import ProcessJournal
from allotment_allocator.build import build
from allotment_allocator.config import AllocatorConfig
from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_api.allocator.v1 import allocator_pb2_grpc as wire
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import (
    TokenSigner,
    TokenVerifier,
    key_id,
    key_id_of,
    load_or_create_key,
)
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    Aborted,
    AllotmentError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from allotment_core.names import LeaseName, TenantName
from allotment_core.rpc import RpcServer
from allotment_core.rpc.client import channel, from_rpc_error, request_id

FAKE_HOST = Path(__file__).with_name("allocator_fake_host.py")
LOCAL = "tenants/local"


@dataclass
class Site:
    """A served allocator and its clients."""

    folder: Path
    signer: TokenSigner
    verifier: TokenVerifier
    port: int
    leases: "wire.LeaseServiceAsyncStub"
    tenants: "wire.TenantServiceAsyncStub"
    pools: "wire.PoolServiceAsyncStub"

    @property
    def orders(self) -> list[dict[str, dict[str, Any]]]:
        file = self.folder / "control" / "orders"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def started(self) -> list[dict[str, Any]]:
        return [order["start"] for order in self.orders if "start" in order]

    def tell(self, what: str) -> None:
        (self.folder / "control" / what).touch()

    async def create(self, holder: str = "x", tenant: str = LOCAL, slots: int = 1) -> pb.Lease:
        response = await self.leases.CreateLease(
            pb.CreateLeaseRequest(
                request_id=request_id(),
                parent=tenant,
                holder=f"{tenant}/experiments/{holder}",
                slot_count=slots,
            )
        )
        return response.lease

    async def get(self, name: str) -> pb.Lease:
        return (await self.leases.GetLease(pb.GetLeaseRequest(name=name))).lease

    async def release(self, name: str, epoch: int = 0) -> pb.Lease:
        request = pb.ReleaseLeaseRequest(request_id=request_id(), name=name, epoch=epoch)
        return (await self.leases.ReleaseLease(request)).lease

    async def renew(self, lease: pb.Lease) -> pb.RenewedLease:
        request = pb.RenewLeasesRequest(
            request_id=request_id(),
            renewals=[pb.LeaseRenewal(name=lease.name, epoch=lease.epoch)],
        )
        return (await self.leases.RenewLeases(request)).leases[0]

    async def create_tenant(self, tenant_id: str, **terms: Any) -> pb.Tenant:
        request = pb.CreateTenantRequest(
            request_id=request_id(), tenant_id=tenant_id, tenant=pb.Tenant(**terms)
        )
        return (await self.tenants.CreateTenant(request)).tenant

    async def until_started(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.started()) >= count)
        return self.started()


async def until(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def until_state(site: Site, name: str, state: "pb.LeaseState.ValueType") -> pb.Lease:
    deadline = time.monotonic() + 20
    while (lease := await site.get(name)).state != state:
        assert time.monotonic() < deadline, f"{name} stays {lease}"
        await asyncio.sleep(0.05)
    return lease


async def until_it_waits(site: Site, name: str, text: str) -> pb.Lease:
    """The lease, once the reason or the message of its wait has the text."""
    deadline = time.monotonic() + 20
    while True:
        lease = await site.get(name)
        if text in f"{lease.wait.reason}: {lease.wait.message}":
            return lease
        assert time.monotonic() < deadline, f"{name} stays {lease}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[Site]:
    (folder / "control").mkdir(exist_ok=True)
    os.environ["FAKE_CONTROL"] = str(folder / "control")
    clock = SystemClock()
    signer = TokenSigner(load_or_create_key(folder / "key.pem"))
    config = AllocatorConfig(
        database_url=f"sqlite:///{folder}/allocator.db",
        work_dir=folder / "work",
        cache_dir=folder / "cache",
        host_command=(sys.executable, "-I", str(FAKE_HOST)),
        slots=2,
        memory_bytes_per_slot=1 << 30,
    )
    service = await build(replace(config, **settings), clock, signer, lambda: "127.0.0.1:4711")
    verifier = TokenVerifier(signer.public_key_pem, clock)
    server = RpcServer([service], verifier, clock, "127.0.0.1:0")
    port = await server.start()
    admin = signer.issue("test", TenantName("local"), Role.ADMIN, 3600, clock.now())
    calls = channel(f"127.0.0.1:{port}", token=admin)
    try:
        yield Site(
            folder,
            signer,
            verifier,
            port,
            wire.LeaseServiceStub(calls),
            wire.TenantServiceStub(calls),
            wire.PoolServiceStub(calls),
        )
    finally:
        await calls.close()
        await server.stop(1.0)


@asynccontextmanager
async def refused(kind: type[AllotmentError], reason: str = "") -> AsyncIterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = from_rpc_error(caught.value)
    assert isinstance(error, kind), error
    assert not reason or error.reason == reason


async def test_a_lease_is_granted_and_its_trainer_started(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        lease = await site.create("x")
        assert (lease.state, lease.epoch) == (pb.LEASE_STATE_HELD, 1)
        assert lease.pool == "pools/local"
        assert lease.wait.reason == "STARTING"
        [order] = await site.until_started(1)
        assert order["lease"] == lease.name
        assert (order["epoch"], order["server"]) == (1, "127.0.0.1:4711")
        assert (order["threads"], order["memory_bytes"]) == (1, 1 << 30)
        assert Path(order["cache_dir"]) == tmp_path / "cache"
        principal = site.verifier.verify(order["token"])
        assert (principal.role, principal.lease_epoch) == (Role.TRAINER, 1)
        assert principal.lease == LeaseName.parse(lease.name)
        await until(lambda: Path(order["work_dir"]).exists())
        pool = (await site.pools.GetPool(pb.GetPoolRequest(name="pools/local"))).pool
        assert (pool.slot_count, pool.used_slot_count) == (2, 1)
        await until_no_wait(site, lease.name)


async def until_no_wait(site: Site, name: str) -> None:
    deadline = time.monotonic() + 20
    while (await site.get(name)).HasField("wait"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_serving_does_not_wait_for_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_IMPORT_S", "3")
    async with served(tmp_path) as site:
        lease = await site.create()
        seen = await until_it_waits(site, lease.name, "loading its libraries")
        assert seen.epoch == 1
        [order] = await site.until_started(1)
        assert order["epoch"] == 1


async def test_an_idle_trainer_takes_the_next_lease_of_its_tenant_alone(tmp_path: Path) -> None:
    async with served(tmp_path, slots=1) as site:
        await site.create_tenant("other")
        first = await site.create("x")
        [order] = await site.until_started(1)
        await site.release(first.name)
        site.tell(f"idle.{order['id']}")
        await asyncio.sleep(0.2)
        second = await site.create("y")
        await until(lambda: any("lease" in o for o in site.orders))
        [handed] = [o["lease"] for o in site.orders if "lease" in o]
        assert (handed["id"], handed["lease"]) == (order["id"], second.name)
        await site.release(second.name)
        site.tell(f"idle.{order['id']}")
        await asyncio.sleep(0.2)
        third = await site.create("z", tenant="tenants/other")
        started = await site.until_started(2)
        assert started[1]["tenant"] == "tenants/other"
        assert started[1]["lease"] == third.name
        kinds = [(next(iter(o)), next(iter(o.values()))["id"]) for o in site.orders]
        assert kinds.index(("kill", order["id"])) < kinds.index(("start", started[1]["id"]))


async def test_slots_are_given_again_when_the_old_trainer_is_gone(tmp_path: Path) -> None:
    async with served(tmp_path, slots=1) as site:
        first = await site.create("x")
        [order] = await site.until_started(1)
        second = await site.create("y")
        assert second.wait.reason == "POOL_FULL"
        assert second.wait.position == 1
        await site.release(first.name)
        waiting = await until_it_waits(site, second.name, "on its way out")
        assert waiting.state == pb.LEASE_STATE_QUEUED
        site.tell(f"exit.{order['id']}")
        await until_state(site, second.name, pb.LEASE_STATE_HELD)
        assert (await site.until_started(2))[1]["lease"] == second.name


async def test_a_lost_trainer_is_replaced_under_the_next_epoch(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        lease = await site.create()
        [order] = await site.until_started(1)
        site.tell(f"exit.{order['id']}")
        again = (await site.until_started(2))[1]
        assert (again["lease"], again["epoch"]) == (lease.name, 2)
        assert not (await site.renew(lease)).renewed
        current = await site.get(lease.name)
        assert (await site.renew(current)).renewed


async def test_a_trainer_that_keeps_failing_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "1")
    async with served(tmp_path) as site:
        lease = await site.create()
        await site.until_started(4)
        seen = await site.get(lease.name)
        assert seen.problem.reason == "TRAINER_FAILED"
        assert "boom" in seen.problem.message
        await until_it_waits(site, lease.name, "NO_TRAINER")


async def test_a_dead_host_comes_back_with_all_its_leases(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        leases = [await site.create("x"), await site.create("y")]
        await site.until_started(2)
        site.tell("die")
        orders = (await site.until_started(4))[2:]
        assert {(o["lease"], o["epoch"]) for o in orders} == {(x.name, 2) for x in leases}


async def test_a_lease_that_is_not_renewed_expires_and_its_trainer_is_killed(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, lease_ttl_s=1.0) as site:
        lease = await site.create()
        [order] = await site.until_started(1)
        ended = await until_state(site, lease.name, pb.LEASE_STATE_EXPIRED)
        assert ended.problem.reason == "LEASE_EXPIRED"
        await until(lambda: {"kill": {"id": order["id"]}} in site.orders)
        late = await site.renew(lease)
        assert not late.renewed
        assert late.lease.state == pb.LEASE_STATE_EXPIRED


async def test_a_guarantee_takes_a_slot_back_through_revoking(tmp_path: Path) -> None:
    async with served(tmp_path, minimum_runtime_s=0.2, revoke_grace_s=1.0) as site:
        await site.create_tenant("sure", guaranteed_slots=1)
        mine = [await site.create("x"), await site.create("x")]
        await site.until_started(2)
        await asyncio.sleep(0.3)
        theirs = await site.create("y", tenant="tenants/sure")
        assert theirs.state == pb.LEASE_STATE_QUEUED
        await until_state(site, theirs.name, pb.LEASE_STATE_HELD)
        states = [await site.get(lease.name) for lease in mine]
        ended = [s for s in states if s.state == pb.LEASE_STATE_EXPIRED]
        assert [s.problem.reason for s in ended] == ["REVOKED_GUARANTEE"]


async def test_leases_outlive_the_server(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        held = await site.create("x", slots=2)
        queued = await site.create("y")
        await site.until_started(1)
    async with served(tmp_path) as site:
        order = (await site.until_started(2))[1]
        assert (order["lease"], order["epoch"]) == (held.name, 2)
        assert (await site.get(queued.name)).wait.reason == "POOL_FULL"
        assert (await site.release(held.name)).state == pb.LEASE_STATE_RELEASED


async def test_watching_begins_with_a_snapshot_and_goes_on_with_changes(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        before = await site.create("x")
        stream = site.leases.WatchLeases(pb.WatchLeasesRequest(parent="tenants/-"))
        seen = aiter(stream)
        assert (await anext(seen)).lease.name == before.name
        while not (await anext(seen)).snapshot_end:
            continue
        after = await site.create("y")
        while (change := await anext(seen)).lease.name != after.name:
            continue
        assert change.lease.state == pb.LEASE_STATE_HELD
        await site.release(after.name)
        while (change := await anext(seen)).lease.state != pb.LEASE_STATE_RELEASED:
            continue
        assert change.lease.name == after.name
        stream.cancel()


async def test_a_repeated_request_has_one_effect(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        request = pb.CreateLeaseRequest(
            request_id=request_id(), parent=LOCAL, holder=f"{LOCAL}/experiments/x"
        )
        first = await site.leases.CreateLease(request)
        second = await site.leases.CreateLease(request)
        assert first == second
        listed = await site.leases.ListLeases(pb.ListLeasesRequest(parent=LOCAL))
        assert len(listed.leases) == 1


async def test_usage_counts_ended_and_running_leases(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        first, _ = await site.create("x"), await site.create("y")
        await asyncio.sleep(0.3)
        await site.release(first.name)
        usage = await site.tenants.QueryUsage(pb.QueryUsageRequest(parent=LOCAL))
        assert [u.name for u in usage.experiments] == [
            f"{LOCAL}/experiments/x",
            f"{LOCAL}/experiments/y",
        ]
        assert all(0.3 <= u.slot_seconds < 50 for u in usage.experiments)
        assert usage.total.lease_count == 2
        page = await site.tenants.QueryUsage(pb.QueryUsageRequest(parent=LOCAL, page_size=1))
        rest = await site.tenants.QueryUsage(
            pb.QueryUsageRequest(parent=LOCAL, page_size=1, page_token=page.next_page_token)
        )
        assert rest.experiments[0].name.endswith("/y")
        assert not rest.next_page_token


async def test_tenants_and_their_terms(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        made = await site.create_tenant("acme", guaranteed_slots=1)
        assert (made.weight, made.guaranteed_slots) == (1.0, 1)
        async with refused(AlreadyExists):
            await site.create_tenant("acme")
        async with refused(FailedPrecondition, "GUARANTEES_EXCEED_POOL"):
            await site.create_tenant("big", guaranteed_slots=2)
        change = pb.UpdateTenantRequest(
            request_id=request_id(), tenant=pb.Tenant(name=made.name, weight=3, etag=made.etag)
        )
        change.update_mask.paths.append("weight")
        changed = (await site.tenants.UpdateTenant(change)).tenant
        assert (changed.weight, changed.guaranteed_slots) == (3.0, 1)
        assert not changed.shares_experience
        change.request_id = request_id()
        async with refused(Aborted, "ETAG_MISMATCH"):
            await site.tenants.UpdateTenant(change)
        consent = pb.UpdateTenantRequest(
            request_id=request_id(), tenant=pb.Tenant(name=made.name, shares_experience=True)
        )
        consent.update_mask.paths.append("shares_experience")
        changed = (await site.tenants.UpdateTenant(consent)).tenant
        assert changed.shares_experience
        assert (changed.weight, changed.guaranteed_slots) == (3.0, 1)
        change.request_id, change.tenant.etag = request_id(), changed.etag
        assert (await site.tenants.UpdateTenant(change)).tenant.shares_experience
        listed = await site.tenants.ListTenants(pb.ListTenantsRequest(page_size=1))
        assert [t.name for t in listed.tenants] == ["tenants/acme"]
        rest = await site.tenants.ListTenants(
            pb.ListTenantsRequest(page_size=1, page_token=listed.next_page_token)
        )
        assert [t.name for t in rest.tenants] == [LOCAL]
        lease = await site.create("x", tenant=made.name)
        delete = pb.DeleteTenantRequest(request_id=request_id(), name=made.name)
        async with refused(FailedPrecondition, "TENANT_HAS_LEASES"):
            await site.tenants.DeleteTenant(delete)
        await site.release(lease.name)
        await site.tenants.DeleteTenant(delete)
        async with refused(NotFound):
            await site.tenants.GetTenant(pb.GetTenantRequest(name=made.name))


async def test_what_can_never_be_granted_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        async with refused(InvalidArgument, "LARGER_THAN_POOL"):
            await site.create(slots=3)
        await site.create_tenant("small", quota_slots=1)
        async with refused(FailedPrecondition, "LARGER_THAN_QUOTA"):
            await site.create(tenant="tenants/small", slots=2)
        async with refused(NotFound):
            await site.create(tenant="tenants/nobody")
        lease = await site.create()
        async with refused(FailedPrecondition, "STALE_EPOCH"):
            await site.release(lease.name, epoch=7)


async def test_issued_tokens_open_what_their_role_may(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        issued = await site.tenants.IssueToken(
            pb.IssueTokenRequest(tenant=LOCAL, role=pb.ROLE_VIEWER, ttl_s=60)
        )
        async with channel(f"127.0.0.1:{site.port}", token=issued.token) as calls:
            tenants = wire.TenantServiceStub(calls)
            leases = wire.LeaseServiceStub(calls)
            keys = (await tenants.FetchTokenKeys(pb.FetchTokenKeysRequest())).public_keys
            assert [key_id(key.encode()) for key in keys] == [key_id_of(issued.token)]
            await tenants.GetTenant(pb.GetTenantRequest(name=LOCAL))
            async with refused(PermissionDenied):
                await leases.CreateLease(
                    pb.CreateLeaseRequest(
                        request_id="1", parent=LOCAL, holder=f"{LOCAL}/experiments/x"
                    )
                )
            async with refused(PermissionDenied):
                await leases.ListLeases(pb.ListLeasesRequest(parent="tenants/-"))
        async with refused(NotFound):
            await site.tenants.IssueToken(
                pb.IssueTokenRequest(tenant="tenants/nobody", role=pb.ROLE_VIEWER, ttl_s=60)
            )
        async with refused(InvalidArgument, "INVALID_TTL"):
            await site.tenants.IssueToken(
                pb.IssueTokenRequest(tenant=LOCAL, role=pb.ROLE_VIEWER, ttl_s=59)
            )
        async with refused(InvalidArgument):
            await site.tenants.IssueToken(pb.IssueTokenRequest(tenant=LOCAL, ttl_s=60))


async def test_nothing_runs_after_the_server_has_stopped(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.create()
        await site.until_started(1)
        journal = ProcessJournal(tmp_path / "work" / "processes.jsonl")
        await until(lambda: len(journal.processes()) == 2)
        processes = journal.processes()
        assert all(process.alive for process in processes)
    assert not any(process.alive for process in processes)


async def test_nodes_are_listed_with_what_is_free_on_them(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.create("x")
        for parent in ("pools/local", "pools/-"):
            [node] = (await site.pools.ListNodes(pb.ListNodesRequest(parent=parent))).nodes
            assert (node.name, node.pool) == ("pools/local/nodes/local", "pools/local")
            assert node.state == pb.NODE_CONDITION_OPEN
            assert (node.slot_count, node.used_slot_count, node.free_slot_count) == (2, 1, 1)
        async with refused(NotFound):
            await site.pools.ListNodes(pb.ListNodesRequest(parent="pools/other"))
        async with refused(InvalidArgument):
            await site.pools.ListNodes(pb.ListNodesRequest())
