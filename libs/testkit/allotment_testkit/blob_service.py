"""A BlobService in memory, for services that need one beside them."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from allotment_api.dataset.v1 import blob_pb2 as pb
from allotment_api.dataset.v1.blob_pb2_grpc import add_BlobServiceServicer_to_server
from allotment_core.errors import InvalidArgument, NotFound, Unavailable
from allotment_core.names import BlobName
from allotment_core.rpc import Service


class MemoryBlobService:
    """Every tenant's blobs and holds; `away` makes it answer like a server that is going down."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        """By the blob's name."""
        self.holds: dict[str, set[str]] = {}
        """Names of blobs by owner."""
        self.away = False
        self.refused_count = 0
        """Calls that came while it was away."""

    def add(self, content: bytes, tenant: str = "tenants/local") -> str:
        """Stores bytes and returns their sha256."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[f"{tenant}/blobs/{digest}"] = content
        return digest

    def service(self) -> Service:
        """To be served."""
        return Service(name="dataset", servicers=[(add_BlobServiceServicer_to_server, self)])

    def _check_here(self) -> None:
        if self.away:
            self.refused_count += 1
            raise Unavailable("away")

    def _content(self, name: str) -> bytes:
        self._check_here()
        try:
            return self.blobs[str(BlobName.parse(name))]
        except KeyError:
            raise NotFound(f"no blob {name}") from None

    async def PutBlob(
        self, requests: AsyncIterator[pb.PutBlobRequest], context: Any
    ) -> pb.PutBlobResponse:
        first: pb.PutBlobRequest | None = None
        content = b""
        async for request in requests:
            first = first or request
            content += request.data
        self._check_here()
        if first is None:
            raise InvalidArgument("no message")
        digest = hashlib.sha256(content).hexdigest()
        if first.sha256 not in ("", digest):
            raise InvalidArgument(f"the bytes have the sha256 {digest}, not {first.sha256}")
        name = f"{first.parent}/blobs/{digest}"
        self.blobs[name] = content
        self.holds.setdefault(first.owner, set()).add(name)
        return pb.PutBlobResponse(blob=pb.Blob(name=name, size_bytes=len(content)))

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: Any
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        content = self._content(request.name)[request.offset :]
        for begin in range(0, len(content), 1 << 20):
            yield pb.ReadBlobResponse(data=content[begin : begin + (1 << 20)])

    async def GetBlob(self, request: pb.GetBlobRequest, context: Any) -> pb.GetBlobResponse:
        size_bytes = len(self._content(request.name))
        return pb.GetBlobResponse(blob=pb.Blob(name=request.name, size_bytes=size_bytes))

    async def HoldBlobs(self, request: pb.HoldBlobsRequest, context: Any) -> pb.HoldBlobsResponse:
        for name in request.names:
            self._content(name)
        self.holds.setdefault(request.owner, set()).update(request.names)
        return pb.HoldBlobsResponse()

    async def ReleaseBlobs(
        self, request: pb.ReleaseBlobsRequest, context: Any
    ) -> pb.ReleaseBlobsResponse:
        self._check_here()
        released = self.holds.pop(request.owner, set())
        return pb.ReleaseBlobsResponse(released_count=len(released))
