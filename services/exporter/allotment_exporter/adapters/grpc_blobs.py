"""Blobs behind the dataset service."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc.aio

from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_core.clock import Clock
from allotment_core.errors import (
    AllotmentError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from allotment_core.names import BlobName, ExportName, TenantName
from allotment_core.rpc.client import from_rpc_error, request_id

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
_STREAM_LIMIT_S = 300.0
_CALL_LIMIT_S = 15.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class GrpcBlobs:
    """The Blobs port. Every call is safe to repeat, and is while the service is away."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock, patience_s: float) -> None:
        """`patience_s`: how long a service may be away before a call fails."""
        self._stub = blob_pb2_grpc.BlobServiceStub(channel)
        self._clock = clock
        self._patience_s = patience_s

    async def fetch(self, tenant: TenantName, sha256: str, path: Path, limit_bytes: int) -> None:
        name = BlobName(tenant, sha256)
        try:
            await self._patiently(lambda: self._fetch(name, path, limit_bytes))
        except NotFound:
            raise NotFound(
                f"blob {sha256} is not in the store of {tenant}; train the model again",
                reason="BLOB_MISSING",
            ) from None

    async def _fetch(self, name: BlobName, path: Path, limit_bytes: int) -> None:
        size_bytes = 0
        with path.open("wb") as file:
            call = self._stub.ReadBlob(
                blob_pb2.ReadBlobRequest(name=str(name)), timeout=_STREAM_LIMIT_S
            )
            async for chunk in call:
                size_bytes += len(chunk.data)
                if size_bytes > limit_bytes:
                    call.cancel()
                    raise ResourceExhausted(
                        f"blob {name.sha256} is larger than the {limit_bytes} bytes that are left "
                        "for this export; train a smaller model, or one of fewer members",
                        reason="BLOB_TOO_LARGE",
                    )
                file.write(chunk.data)

    async def put(self, owner: ExportName, path: Path, sha256: str) -> None:
        async def send() -> None:
            await self._stub.PutBlob(_messages(owner, path, sha256), timeout=_STREAM_LIMIT_S)

        await self._patiently(send)

    async def release(self, owner: ExportName) -> None:
        request = blob_pb2.ReleaseBlobsRequest(request_id=request_id(), owner=str(owner))

        async def release() -> None:
            await self._stub.ReleaseBlobs(request, timeout=_CALL_LIMIT_S)

        await self._patiently(release)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The attempt's result, repeated while the service is away."""
        ends = self._clock.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except grpc.aio.AioRpcError as raised:
                error: AllotmentError = from_rpc_error(raised)
            if not isinstance(error, Unavailable):
                raise error
            if self._clock.monotonic() + pause_s > ends:
                raise Unavailable(
                    f"the dataset service has been away for {self._patience_s:g} s; "
                    "export again when it is back",
                    reason="DATASET_UNAVAILABLE",
                ) from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _messages(
    owner: ExportName, path: Path, sha256: str
) -> AsyncIterator[blob_pb2.PutBlobRequest]:
    with path.open("rb") as file:
        data = file.read(CHUNK_BYTES)
        yield blob_pb2.PutBlobRequest(
            parent=str(owner.tenant), owner=str(owner), sha256=sha256, data=data
        )
        while data := file.read(CHUNK_BYTES):
            yield blob_pb2.PutBlobRequest(data=data)
