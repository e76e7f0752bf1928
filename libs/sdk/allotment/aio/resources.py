"""Who shares what: `client.pools`, `client.tenants`, `client.leases`."""

from collections.abc import AsyncIterator

from allotment import convert
from allotment.aio.group import PAGE_SIZE, Group
from allotment.connection import Connection, new_request_id
from allotment.naming import Named
from allotment.types import Lease, Node, Pool, Role, Tenant, Token, Usage
from allotment_api.allocator.v1 import allocator_pb2 as wire
from allotment_api.allocator.v1.allocator_pb2_grpc import (
    LeaseServiceStub,
    PoolServiceStub,
    TenantServiceStub,
)
from allotment_core.errors import InvalidArgument, clip


class Pools(Group):
    """Where trials run."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = PoolServiceStub(connection.channel)

    async def get(self, pool: str | Named) -> Pool:
        name = pool if isinstance(pool, str) else pool.name
        request = wire.GetPoolRequest(name=name if "/" in name else f"pools/{name}")
        return convert.pool((await self._call(self._stub.GetPool, request)).pool)

    async def list(self) -> AsyncIterator[Pool]:
        async for page in self._pages(
            self._stub.ListPools,
            lambda token: wire.ListPoolsRequest(page_size=PAGE_SIZE, page_token=token),
        ):
            for item in page.pools:
                yield convert.pool(item)

    async def nodes(self, pool: str | Named = "") -> AsyncIterator[Node]:
        """The machines of a pool, of all pools by default; needs an admin's token."""
        name = pool if isinstance(pool, str) else pool.name
        parent = name if "/" in name else f"pools/{name or '-'}"
        async for page in self._pages(
            self._stub.ListNodes,
            lambda token: wire.ListNodesRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            for item in page.nodes:
                yield convert.node(item)


class Tenants(Group):
    """Who shares the pools; all but `get` and `usage` need an admin's token."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = TenantServiceStub(connection.channel)

    def _own(self, tenant: str | Named) -> str:
        text = tenant if isinstance(tenant, str) else tenant.name
        return text if "/" in text else f"tenants/{text}" if text else self._tenant

    async def create(
        self,
        tenant_id: str,
        *,
        weight: float = 1.0,
        guaranteed_slots: int = 0,
        quota_slots: int = 0,
        shares_experience: bool = False,
        isolation: str = "shared",
    ) -> Tenant:
        """`quota_slots` 0 is no limit. `isolation`: shared, or dedicated: whole nodes for it
        alone. `shares_experience`: what is tried first is learnt from its tasks and those of all
        others who share theirs, by counts and scores alone.
        """
        request = wire.CreateTenantRequest(
            request_id=new_request_id(),
            tenant_id=tenant_id.removeprefix("tenants/"),
            tenant=wire.Tenant(
                weight=weight,
                guaranteed_slots=guaranteed_slots,
                quota_slots=quota_slots,
                shares_experience=shares_experience,
                isolation=convert.isolation(isolation),
            ),
        )
        return convert.tenant((await self._call(self._stub.CreateTenant, request)).tenant)

    async def get(self, tenant: str | Named = "") -> Tenant:
        """A tenant; without a name the token's own."""
        request = wire.GetTenantRequest(name=self._own(tenant))
        return convert.tenant((await self._call(self._stub.GetTenant, request)).tenant)

    async def list(self) -> AsyncIterator[Tenant]:
        async for page in self._pages(
            self._stub.ListTenants,
            lambda token: wire.ListTenantsRequest(page_size=PAGE_SIZE, page_token=token),
        ):
            for item in page.tenants:
                yield convert.tenant(item)

    async def update(
        self,
        tenant: str | Named,
        *,
        weight: float | None = None,
        guaranteed_slots: int | None = None,
        quota_slots: int | None = None,
        shares_experience: bool | None = None,
        isolation: str | None = None,
        etag: str = "",
    ) -> Tenant:
        """Changes what is given and leaves the rest. Raises: Aborted when the etag is not the
        current one.
        """
        request = wire.UpdateTenantRequest(request_id=new_request_id())
        request.tenant.name = self._own(tenant)
        request.tenant.etag = etag
        if weight is not None:
            request.tenant.weight = weight
            request.update_mask.paths.append("weight")
        if guaranteed_slots is not None:
            request.tenant.guaranteed_slots = guaranteed_slots
            request.update_mask.paths.append("guaranteed_slots")
        if quota_slots is not None:
            request.tenant.quota_slots = quota_slots
            request.update_mask.paths.append("quota_slots")
        if shares_experience is not None:
            request.tenant.shares_experience = shares_experience
            request.update_mask.paths.append("shares_experience")
        if isolation is not None:
            request.tenant.isolation = convert.isolation(isolation)
            request.update_mask.paths.append("isolation")
        if not request.update_mask.paths:
            raise InvalidArgument(
                f"nothing to change on {clip(request.tenant.name)}; "
                "give weight, guaranteed_slots, quota_slots, shares_experience or isolation",
                reason="NOTHING_TO_CHANGE",
            )
        return convert.tenant((await self._call(self._stub.UpdateTenant, request)).tenant)

    async def delete(self, tenant: str | Named, *, etag: str = "") -> None:
        """Raises: FailedPrecondition while the tenant holds leases."""
        request = wire.DeleteTenantRequest(
            request_id=new_request_id(), name=self._own(tenant), etag=etag
        )
        await self._call(self._stub.DeleteTenant, request)

    async def issue_token(
        self, tenant: str | Named = "", *, role: Role | str = Role.EDITOR, ttl_s: float = 86_400
    ) -> Token:
        """A token of a tenant that exists, for 60 s to 366 days."""
        request = wire.IssueTokenRequest(
            tenant=self._own(tenant), role=convert.role_to_wire(role), ttl_s=round(ttl_s)
        )
        return convert.token(await self._call(self._stub.IssueToken, request))

    async def usage(self, tenant: str | Named = "") -> tuple[Usage, tuple[Usage, ...]]:
        """What the tenant used, and what each of its experiments did."""
        parent = self._own(tenant)
        total: Usage | None = None
        experiments: list[Usage] = []
        async for page in self._pages(
            self._stub.QueryUsage,
            lambda token: wire.QueryUsageRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            total = total or convert.usage(page.total)
            experiments.extend(map(convert.usage, page.experiments))
        return total or Usage(name=parent, slot_seconds=0.0, lease_count=0), tuple(experiments)


class Leases(Group):
    """The rights to run trainers."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = LeaseServiceStub(connection.channel)

    async def get(self, lease: str | Named) -> Lease:
        request = wire.GetLeaseRequest(name=self._name(lease, "leases"))
        return convert.lease((await self._call(self._stub.GetLease, request)).lease)

    async def list(
        self, *, include_ended: bool = False, all_tenants: bool = False
    ) -> AsyncIterator[Lease]:
        """The tenant's leases; `all_tenants` needs an admin's token."""
        parent = "tenants/-" if all_tenants else self._tenant
        async for page in self._pages(
            self._stub.ListLeases,
            lambda token: wire.ListLeasesRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token, include_ended=include_ended
            ),
        ):
            for item in page.leases:
                yield convert.lease(item)
