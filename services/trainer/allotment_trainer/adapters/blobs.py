"""Blobs over gRPC, patient through outages."""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio

from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc
from allotment_core.errors import DataLoss, ErrorKind, Unavailable
from allotment_core.names import TenantName
from allotment_core.rpc.client import from_rpc_error

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
ATTEMPT_S = 30.0
SLOWEST_BYTES_S = 1 << 20
"""An attempt has ATTEMPT_S and the time that its bytes take at this speed."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

PASSING = frozenset(
    {
        ErrorKind.UNAVAILABLE,
        ErrorKind.DEADLINE_EXCEEDED,
        ErrorKind.ABORTED,
        ErrorKind.CANCELLED,
    }
)
"""Errors that another attempt may not meet."""


class GrpcBlobStore:
    """The BlobStore of one tenant behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, tenant: TenantName) -> None:
        self._stub = blob_pb2_grpc.BlobServiceStub(channel)
        self._tenant = tenant

    async def put(self, path: Path, owner: str) -> str:
        sha256 = await asyncio.to_thread(_digest, path)
        size_bytes = (await asyncio.to_thread(path.stat)).st_size
        deadline_s = ATTEMPT_S + size_bytes / SLOWEST_BYTES_S
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                response = await self._stub.PutBlob(
                    self._chunks(path, sha256, owner), timeout=deadline_s
                )
            except grpc.aio.AioRpcError as raised:
                error = from_rpc_error(raised)
                if error.kind not in PASSING:
                    raise error from raised
                log.info("blob not stored yet", extra={"owner": owner, "error": error.message})
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if not response.blob.name.endswith(sha256):
                raise DataLoss("a file changed while it was stored", reason="FILE_CHANGED")
            return sha256

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        name = f"{self._tenant}/blobs/{sha256}"
        call = self._stub.ReadBlob(blob_pb2.ReadBlobRequest(name=name, offset=offset))
        responses = aiter(call)
        try:
            while True:
                async with asyncio.timeout(ATTEMPT_S):
                    response = await anext(responses)
                yield response.data
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Unavailable(f"blob {sha256} has not come on for {ATTEMPT_S:g} s") from None
        except grpc.aio.AioRpcError as raised:
            raise from_rpc_error(raised) from raised
        finally:
            call.cancel()

    async def _chunks(
        self, path: Path, sha256: str, owner: str
    ) -> AsyncIterator[blob_pb2.PutBlobRequest]:
        first = blob_pb2.PutBlobRequest(parent=str(self._tenant), owner=owner, sha256=sha256)
        for data in _pieces(path):
            first.data = data
            yield first
            first = blob_pb2.PutBlobRequest()
        if first.parent:
            yield first


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield data


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
