"""BlobService: messages in, messages out."""

from collections.abc import AsyncIterator
from typing import Any

from allotment_api.dataset.v1 import blob_pb2 as pb
from allotment_core.names import BlobName, TenantName, check_sha256
from allotment_dataset import convert
from allotment_dataset.domain.blobs import Blobs
from allotment_dataset.domain.streams import headed, heard_out


class BlobServicer:
    """Every method of BlobService."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def PutBlob(
        self, requests: AsyncIterator[pb.PutBlobRequest], context: Any
    ) -> pb.PutBlobResponse:
        async with heard_out(requests):
            first, same = await headed(requests, ("parent", "owner", "sha256"))
            sha256 = check_sha256(first.sha256, "sha256") if first.sha256 else ""
            data = (r.data async for r in same)
            blob = await self._blobs.put(TenantName.parse(first.parent), first.owner, data, sha256)
        return pb.PutBlobResponse(blob=convert.blob_message(blob))

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: Any
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        async for piece in self._blobs.read(BlobName.parse(request.name), request.offset):
            yield pb.ReadBlobResponse(data=piece)

    async def GetBlob(self, request: pb.GetBlobRequest, context: Any) -> pb.GetBlobResponse:
        blob = await self._blobs.get(BlobName.parse(request.name))
        return pb.GetBlobResponse(blob=convert.blob_message(blob))

    async def HoldBlobs(self, request: pb.HoldBlobsRequest, context: Any) -> pb.HoldBlobsResponse:
        return await self._blobs.hold(
            request.owner,
            [BlobName.parse(name) for name in request.names],
            lambda _: pb.HoldBlobsResponse(),
        )

    async def ReleaseBlobs(
        self, request: pb.ReleaseBlobsRequest, context: Any
    ) -> pb.ReleaseBlobsResponse:
        return await self._blobs.release(
            request.owner, lambda count: pb.ReleaseBlobsResponse(released_count=count)
        )
