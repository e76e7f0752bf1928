"""Servicers that do next to nothing, over real contracts: for tests of what stands before them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_api.trainer.v1 import session_pb2, session_pb2_grpc
from allotment_core.calls import current_principal
from allotment_core.db import Database
from allotment_core.rpc import Service

TENANT_TABLE = "CREATE TABLE tenant (id INTEGER PRIMARY KEY, tenant_id TEXT)"


class StubTenants:
    """Counts what it creates in a table; GetTenant sleeps `pause_s` or until it may `go_on`, then
    raises `trouble`.
    """

    def __init__(self, database: Database | None) -> None:
        self.database = database
        self.trouble: Exception | None = None
        self.pause_s = 0.0
        self.create_calls = 0
        self.public_keys: list[str] = []
        self.pod_tokens: allocator_pb2.PodTokens | None = None
        self.unknown_key_ids: list[str] = []
        """What those who fetched keys had met."""
        self.time_left_s = 0.0
        """What the caller of the last GetTenant allowed."""
        self.entered = asyncio.Event()
        """Set once a GetTenant has begun."""
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()
        """Set whenever a GetTenant has ended its pause, cancelled or not."""

    async def CreateTenant(self, request: Any, _context: Any) -> allocator_pb2.CreateTenantResponse:
        assert self.database is not None
        self.create_calls += 1

        def insert(connection: sa.Connection) -> int:
            statement = sa.text("INSERT INTO tenant (tenant_id) VALUES (:id)")
            connection.execute(statement, {"id": request.tenant_id})
            return int(connection.exec_driver_sql("SELECT count(*) FROM tenant").scalar_one())

        def to_response(count: int) -> allocator_pb2.CreateTenantResponse:
            tenant = allocator_pb2.Tenant(name=f"tenants/t{count}")
            return allocator_pb2.CreateTenantResponse(tenant=tenant)

        return await self.database.respond(insert, to_response)

    async def GetTenant(self, request: Any, context: Any) -> allocator_pb2.GetTenantResponse:
        self.entered.set()
        self.time_left_s = context.time_remaining()
        self.left.clear()
        try:
            if self.pause_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.go_on.wait(), self.pause_s)
        finally:
            self.left.set()
        if self.trouble is not None:
            raise self.trouble
        etag = current_principal().subject
        return allocator_pb2.GetTenantResponse(
            tenant=allocator_pb2.Tenant(name=request.name, etag=etag)
        )

    async def ListTenants(self, _request: Any, _context: Any) -> allocator_pb2.ListTenantsResponse:
        if self.trouble is not None:
            raise self.trouble
        tenants = [allocator_pb2.Tenant(name="tenants/t", etag="x" * 1024)] * 5000
        return allocator_pb2.ListTenantsResponse(tenants=tenants)

    async def UpdateTenant(self, request: Any, _context: Any) -> allocator_pb2.UpdateTenantResponse:
        return allocator_pb2.UpdateTenantResponse(tenant=request.tenant)

    async def DeleteTenant(
        self, _request: Any, _context: Any
    ) -> allocator_pb2.DeleteTenantResponse:
        return allocator_pb2.DeleteTenantResponse()

    async def IssueToken(self, _request: Any, _context: Any) -> allocator_pb2.IssueTokenResponse:
        return allocator_pb2.IssueTokenResponse()

    async def FetchTokenKeys(
        self, request: Any, _context: Any
    ) -> allocator_pb2.FetchTokenKeysResponse:
        self.unknown_key_ids.append(request.unknown_key_id)
        return allocator_pb2.FetchTokenKeysResponse(
            public_keys=self.public_keys, pod_tokens=self.pod_tokens
        )

    async def QueryUsage(self, _request: Any, _context: Any) -> allocator_pb2.QueryUsageResponse:
        return allocator_pb2.QueryUsageResponse()


class StubBlobs:
    """Counts bytes; streams ten chunks, the last of which fails with `trouble` where set. Without
    an end: waits after the ninth (`endless`), or goes on with chunks of `endless_bytes`.
    """

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.endless = False
        self.endless_bytes = 0
        self.open_streams = 0
        self.one_closed = asyncio.Event()

    async def PutBlob(
        self, requests: AsyncIterator[Any], _context: Any
    ) -> blob_pb2.PutBlobResponse:
        size = 0
        async for request in requests:
            size += len(request.data)
        if self.trouble is not None:
            raise self.trouble
        return blob_pb2.PutBlobResponse(blob=blob_pb2.Blob(size_bytes=size))

    async def ReadBlob(
        self, _request: Any, _context: Any
    ) -> AsyncIterator[blob_pb2.ReadBlobResponse]:
        self.open_streams += 1
        try:
            for i in range(9):
                yield blob_pb2.ReadBlobResponse(data=bytes([i]))
            if self.trouble is not None:
                raise self.trouble
            while self.endless_bytes:
                yield blob_pb2.ReadBlobResponse(data=bytes(self.endless_bytes))
            if self.endless:
                await asyncio.Event().wait()
            yield blob_pb2.ReadBlobResponse(data=b"end")
        finally:
            self.open_streams -= 1
            self.one_closed.set()

    async def GetBlob(self, request: Any, _context: Any) -> blob_pb2.GetBlobResponse:
        return blob_pb2.GetBlobResponse(blob=blob_pb2.Blob(name=request.name))

    async def HoldBlobs(self, _request: Any, _context: Any) -> blob_pb2.HoldBlobsResponse:
        return blob_pb2.HoldBlobsResponse()

    async def ReleaseBlobs(self, _request: Any, _context: Any) -> blob_pb2.ReleaseBlobsResponse:
        return blob_pb2.ReleaseBlobsResponse()


class StubSessions:
    """Welcomes every message."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None

    async def OpenSession(
        self, requests: AsyncIterator[Any], _context: Any
    ) -> AsyncIterator[session_pb2.OpenSessionResponse]:
        async for _ in requests:
            if self.trouble is not None:
                raise self.trouble
            yield session_pb2.OpenSessionResponse(welcome=session_pb2.Welcome())


class Stubs:
    """One service with a method of each kind."""

    def __init__(self, database: Database | None = None) -> None:
        self.tenants = StubTenants(database)
        self.blobs = StubBlobs()
        self.sessions = StubSessions()
        self.service = Service(
            name="stubs",
            servicers=[
                (allocator_pb2_grpc.add_TenantServiceServicer_to_server, self.tenants),
                (blob_pb2_grpc.add_BlobServiceServicer_to_server, self.blobs),
                (session_pb2_grpc.add_TrainerServiceServicer_to_server, self.sessions),
            ],
            database=database,
        )
        names = ("dataset", "controller", "allocator", "exporter")
        self.services = (self.service, *(Service(name=name, servicers=()) for name in names))
        """With the health names of those services whose stubs it has."""
