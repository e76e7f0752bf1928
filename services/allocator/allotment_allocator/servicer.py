"""The allocator's RPCs."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

from allotment_allocator import convert
from allotment_allocator.domain import usage
from allotment_allocator.domain.absence import Absence
from allotment_allocator.domain.allocation import Allocation
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.identity import Identities, PodKeys
from allotment_allocator.domain.lease import Lease, LeaseState, Wait
from allotment_allocator.domain.pool import Place, Pool, known
from allotment_allocator.domain.staffing import STARTING
from allotment_allocator.domain.tenant import Isolation
from allotment_allocator.domain.waits import DIVIDING
from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import Clock
from allotment_core.errors import FieldViolation, InvalidArgument, not_found
from allotment_core.names import (
    ExperimentName,
    LeaseName,
    PoolName,
    TenantName,
    check_tenant_id,
)
from allotment_core.paging import decode_token, encode_token, page_size

MOST_RENEWALS = 1000
ALL_POOLS = "pools/-"
GRANTED = Wait(STARTING, "its trainer is about to start")
DIVIDED_AT_ONCE = 100
"""With more leases than that a new one waits for the keeper, which divides for many together."""
QUEUED = Wait(DIVIDING, "it has just been queued; the pools are divided again within a second")


class PoolServicer:
    """PoolService."""

    def __init__(self, pools: Callable[[], tuple[Pool, ...] | None], board: Board) -> None:
        self._pools = pools
        self._board = board

    async def GetPool(self, request: pb.GetPoolRequest, _context: Any) -> pb.GetPoolResponse:
        name = PoolName.parse(request.name)
        used = self._used()
        for pool in known(self._pools()):
            if pool.name == name:
                return pb.GetPoolResponse(pool=convert.pool_message(pool, used[name]))
        raise not_found(name)

    async def ListPools(self, request: pb.ListPoolsRequest, _context: Any) -> pb.ListPoolsResponse:
        size, after = page_size(request.page_size), decode_token(request.page_token, "pools")
        used = self._used()
        there = known(self._pools())
        pools = sorted((p for p in there if str(p.name) > after), key=lambda p: str(p.name))
        return pb.ListPoolsResponse(
            pools=[convert.pool_message(pool, used[pool.name]) for pool in pools[:size]],
            next_page_token=_next([str(pool.name) for pool in pools], size, "pools"),
        )

    async def ListNodes(self, request: pb.ListNodesRequest, _context: Any) -> pb.ListNodesResponse:
        parent = None if request.parent == ALL_POOLS else PoolName.parse(request.parent)
        pools = [p for p in known(self._pools()) if parent in (None, p.name)]
        if parent is not None and not pools:
            raise not_found(parent)
        key = f"nodes {parent}"
        size, after = page_size(request.page_size), decode_token(request.page_token, key)
        named = {
            convert.node_name(pool, node): (pool, node) for pool in pools for node in pool.nodes
        }
        following = sorted(name for name in named if name > after)
        used = self._used_by_place()
        return pb.ListNodesResponse(
            nodes=[
                convert.node_message(pool, node, used[Place(pool.name, node.name)])
                for pool, node in (named[name] for name in following[:size])
            ],
            next_page_token=_next(following, size, key),
        )

    def _used(self) -> Counter[PoolName]:
        used: Counter[PoolName] = Counter()
        for place, slot_count in self._used_by_place().items():
            used[place.pool] += slot_count
        return used

    def _used_by_place(self) -> Counter[Place]:
        used: Counter[Place] = Counter()
        for lease in self._board.live.values():
            if lease.granted and lease.place is not None:
                used[lease.place] += lease.slot_count
        return used


class TenantServicer:
    """TenantService."""

    def __init__(
        self,
        desk: Desk,
        signer: TokenSigner,
        clock: Clock,
        retired_keys: Sequence[bytes] = (),
        pod_keys: PodKeys | None = None,
    ) -> None:
        """`pod_keys`: of the cluster that trainers run in, if they do."""
        self._pod_keys = pod_keys
        self._desk = desk
        self._signer = signer
        self._clock = clock
        self._public_keys = [key.decode("ascii") for key in (signer.public_key_pem, *retired_keys)]

    async def CreateTenant(
        self, request: pb.CreateTenantRequest, _context: Any
    ) -> pb.CreateTenantResponse:
        name = TenantName(check_tenant_id(request.tenant_id))
        terms, isolation = convert.terms(request.tenant), convert.isolation(request.tenant)
        return await self._desk.respond(
            lambda a: a.create_tenant(name, terms, request.tenant.shares_experience, isolation),
            lambda tenant: pb.CreateTenantResponse(tenant=convert.tenant_message(tenant)),
        )

    async def GetTenant(self, request: pb.GetTenantRequest, _context: Any) -> pb.GetTenantResponse:
        name = TenantName.parse(request.name)
        tenant = await self._desk.read(lambda books: books.tenant(name))
        if tenant is None:
            raise not_found(name)
        return pb.GetTenantResponse(tenant=convert.tenant_message(tenant))

    async def ListTenants(
        self, request: pb.ListTenantsRequest, _context: Any
    ) -> pb.ListTenantsResponse:
        size = page_size(request.page_size)
        after = decode_token(request.page_token, "tenants")
        rows = await self._desk.read(lambda books: books.tenants_page(after, size + 1))
        return pb.ListTenantsResponse(
            tenants=[convert.tenant_message(tenant) for tenant in rows[:size]],
            next_page_token=_next([str(t.name) for t in rows], size, "tenants"),
        )

    async def UpdateTenant(
        self, request: pb.UpdateTenantRequest, _context: Any
    ) -> pb.UpdateTenantResponse:
        name = TenantName.parse(request.tenant.name)
        new, etag = request.tenant, request.tenant.etag
        values: dict[str, float | Isolation] = {
            "weight": new.weight or 1.0,
            "guaranteed_slots": new.guaranteed_slots,
            "quota_slots": new.quota_slots,
            "guaranteed_gpus": new.guaranteed_gpus,
            "quota_gpus": new.quota_gpus,
            "shares_experience": new.shares_experience,
            "isolation": convert.isolation(new),
        }
        paths = tuple(request.update_mask.paths)
        return await self._desk.respond(
            lambda a: a.update_tenant(name, values, paths, etag),
            lambda tenant: pb.UpdateTenantResponse(tenant=convert.tenant_message(tenant)),
        )

    async def DeleteTenant(
        self, request: pb.DeleteTenantRequest, _context: Any
    ) -> pb.DeleteTenantResponse:
        name = TenantName.parse(request.name)
        return await self._desk.respond(
            lambda a: a.delete_tenant(name, request.etag),
            lambda _: pb.DeleteTenantResponse(),
        )

    async def IssueToken(
        self, request: pb.IssueTokenRequest, _context: Any
    ) -> pb.IssueTokenResponse:
        name, role = TenantName.parse(request.tenant), convert.role(request.role)
        if await self._desk.read(lambda books: books.tenant(name)) is None:
            raise not_found(name)
        now = self._clock.now()
        token = self._signer.issue(f"{role.value}@{name.tenant_id}", name, role, request.ttl_s, now)
        expire_time = convert.timestamp(now + timedelta(seconds=request.ttl_s))
        return pb.IssueTokenResponse(token=token, expire_time=expire_time)

    async def FetchTokenKeys(
        self, request: pb.FetchTokenKeysRequest, _context: Any
    ) -> pb.FetchTokenKeysResponse:
        response = pb.FetchTokenKeysResponse(public_keys=self._public_keys)
        if self._pod_keys is not None:
            keys = await self._pod_keys.fetch(request.unknown_key_id)
            response.pod_tokens.CopyFrom(convert.pod_tokens_message(keys))
        return response

    async def QueryUsage(
        self, request: pb.QueryUsageRequest, _context: Any
    ) -> pb.QueryUsageResponse:
        name = TenantName.parse(request.parent)
        size, key = page_size(request.page_size), f"usage {name}"
        after, now = decode_token(request.page_token, key), self._clock.now()
        tenant, ended, live = await self._desk.read(
            lambda books: (books.tenant(name), books.usage_of(name), books.live_leases())
        )
        if tenant is None:
            raise not_found(name)
        used = usage.add_running(ended, live, name, now)
        shown = sorted(holder for holder in used if holder > after)
        return pb.QueryUsageResponse(
            total=convert.usage_message(str(name), usage.total(used.values())),
            experiments=[convert.usage_message(holder, used[holder]) for holder in shown[:size]],
            next_page_token=_next(shown, size, key),
        )


class LeaseServicer:
    """LeaseService."""

    def __init__(
        self,
        desk: Desk,
        board: Board,
        identities: Identities,
        absence: Absence,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._board = board
        self._absence = absence
        self._clock = clock
        self._identities = identities

    def _message(self, lease: Lease) -> pb.Lease:
        return convert.lease_message(lease, self._board.wait(lease))

    async def CreateLease(
        self, request: pb.CreateLeaseRequest, _context: Any
    ) -> pb.CreateLeaseResponse:
        tenant = TenantName.parse(request.parent)
        holder = ExperimentName.parse(request.holder)
        slot_count, wanted = request.slot_count or 1, convert.wanted(request.shape)
        at_once = len(self._board.live) < DIVIDED_AT_ONCE

        def work(allocation: Allocation) -> tuple[Lease, Wait | None]:
            name = allocation.create_lease(tenant, holder, slot_count, wanted).name
            if at_once:
                allocation.divide()
            lease = allocation.changed[name]
            waits = allocation.waits or {name: QUEUED}
            return lease, GRANTED if lease.state is LeaseState.HELD else waits.get(name)

        return await self._desk.respond(
            work, lambda made: pb.CreateLeaseResponse(lease=convert.lease_message(*made))
        )

    async def GetLease(self, request: pb.GetLeaseRequest, _context: Any) -> pb.GetLeaseResponse:
        name = LeaseName.parse(request.name)
        lease = await self._desk.read(lambda books: books.lease(name))
        if lease is None:
            raise not_found(name)
        return pb.GetLeaseResponse(lease=self._message(lease))

    async def ListLeases(
        self, request: pb.ListLeasesRequest, _context: Any
    ) -> pb.ListLeasesResponse:
        parent = await self._parent(request.parent)
        size, ended = page_size(request.page_size), request.include_ended
        key = f"leases {parent} {ended}"
        after = decode_token(request.page_token, key)
        rows = await self._desk.read(
            lambda books: books.leases_page(parent, after, size + 1, include_ended=ended)
        )
        return pb.ListLeasesResponse(
            leases=[self._message(lease) for lease in rows[:size]],
            next_page_token=_next([str(lease.name) for lease in rows], size, key),
        )

    async def WatchLeases(
        self, request: pb.WatchLeasesRequest, _context: Any
    ) -> AsyncIterator[pb.WatchLeasesResponse]:
        parent = await self._parent(request.parent)
        async for seen in self._board.watch(parent):
            if seen.lease is None:
                yield pb.WatchLeasesResponse(snapshot_end=True)
            else:
                yield pb.WatchLeasesResponse(lease=convert.lease_message(seen.lease, seen.wait))

    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, _context: Any
    ) -> pb.RenewLeasesResponse:
        if len(request.renewals) > MOST_RENEWALS:
            raise InvalidArgument(
                f"renewals has {len(request.renewals)} leases, at most {MOST_RENEWALS} are renewed "
                "at once; send several requests",
                violations=(FieldViolation("renewals", f"at most {MOST_RENEWALS}"),),
            )
        wanted = [(LeaseName.parse(r.name), r.epoch) for r in request.renewals]
        self._absence.renewed(self._clock.monotonic())
        return await self._desk.respond(
            lambda a: a.renew(wanted),
            lambda results: pb.RenewLeasesResponse(
                leases=[
                    pb.RenewedLease(renewed=renewed, lease=self._message(lease) if lease else None)
                    for renewed, lease in results
                ]
            ),
        )

    async def ReleaseLease(
        self, request: pb.ReleaseLeaseRequest, _context: Any
    ) -> pb.ReleaseLeaseResponse:
        name = LeaseName.parse(request.name)
        return await self._desk.respond(
            lambda a: a.release(name, request.epoch),
            lambda lease: pb.ReleaseLeaseResponse(lease=convert.lease_message(lease, None)),
        )

    async def IdentifyTrainer(
        self, request: pb.IdentifyTrainerRequest, _context: Any
    ) -> pb.IdentifyTrainerResponse:
        pod = await self._identities.identify(request.namespace, request.pod_uid)
        return pb.IdentifyTrainerResponse(
            tenant=str(pod.lease.tenant), lease=str(pod.lease), epoch=pod.epoch
        )

    async def _parent(self, text: str) -> TenantName:
        """Raises: NotFound for a tenant that is not there."""
        parent = TenantName.parse_or_wildcard(text)
        if parent == TenantName.WILDCARD:
            return parent
        if await self._desk.read(lambda books: books.tenant(parent)) is None:
            raise not_found(parent)
        return parent


def _next(cursors: list[str], size: int, key: str) -> str:
    """The token for what follows the first `size`; empty when there is nothing."""
    return encode_token(key, cursors[size - 1]) if len(cursors) > size else ""
