"""DatasetService: messages in, messages out."""

from collections.abc import AsyncIterator
from typing import Any

from allotment_api.dataset.v1 import dataset_pb2 as pb
from allotment_core.names import (
    DatasetName,
    ImportName,
    TenantName,
    UploadName,
    VersionName,
    check_sha256,
)
from allotment_dataset import convert
from allotment_dataset.domain.catalogue import Catalogue
from allotment_dataset.domain.importing import Imports
from allotment_dataset.domain.streams import headed, heard_out
from allotment_dataset.domain.uploading import Uploads
from allotment_dataset.domain.uploads import Chunk


class DatasetServicer:
    """Every method of DatasetService."""

    def __init__(self, uploads: Uploads, imports: Imports, catalogue: Catalogue) -> None:
        self._uploads = uploads
        self._imports = imports
        self._catalogue = catalogue

    async def CreateUpload(
        self, request: pb.CreateUploadRequest, context: Any
    ) -> pb.CreateUploadResponse:
        return await self._uploads.create(
            TenantName.parse(request.parent),
            size_bytes=request.size_bytes,
            sha256=check_sha256(request.sha256, "sha256") if request.sha256 else "",
            to_response=lambda u: pb.CreateUploadResponse(upload=convert.upload_message(u)),
        )

    async def WriteUpload(
        self, requests: AsyncIterator[pb.WriteUploadRequest], context: Any
    ) -> pb.WriteUploadResponse:
        async with heard_out(requests):
            first, same = await headed(requests, ("name",))
            chunks = (Chunk(offset=r.offset, data=r.data, last=r.last) async for r in same)
            upload = await self._uploads.write(UploadName.parse(first.name), chunks)
        return pb.WriteUploadResponse(upload=convert.upload_message(upload))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        upload = await self._uploads.get(UploadName.parse(request.name))
        return pb.GetUploadResponse(upload=convert.upload_message(upload))

    async def DeleteUpload(
        self, request: pb.DeleteUploadRequest, context: Any
    ) -> pb.DeleteUploadResponse:
        return await self._uploads.delete(
            UploadName.parse(request.name), lambda _: pb.DeleteUploadResponse()
        )

    async def CreateImport(
        self, request: pb.CreateImportRequest, context: Any
    ) -> pb.CreateImportResponse:
        return await self._imports.create(
            TenantName.parse(request.parent),
            convert.import_request(request),
            lambda o: pb.CreateImportResponse(operation=convert.import_message(o)),
        )

    async def GetImport(self, request: pb.GetImportRequest, context: Any) -> pb.GetImportResponse:
        operation = await self._imports.get(ImportName.parse(request.name))
        return pb.GetImportResponse(operation=convert.import_message(operation))

    async def ListImports(
        self, request: pb.ListImportsRequest, context: Any
    ) -> pb.ListImportsResponse:
        page = await self._imports.imports(
            TenantName.parse(request.parent), request.page_size, request.page_token
        )
        return pb.ListImportsResponse(
            imports=map(convert.import_message, page.items), next_page_token=page.next_token
        )

    async def WatchImport(
        self, request: pb.WatchImportRequest, context: Any
    ) -> AsyncIterator[pb.WatchImportResponse]:
        async for operation in self._imports.watch(ImportName.parse(request.name)):
            yield pb.WatchImportResponse(operation=convert.import_message(operation))

    async def CancelImport(
        self, request: pb.CancelImportRequest, context: Any
    ) -> pb.CancelImportResponse:
        return await self._imports.cancel(
            ImportName.parse(request.name),
            lambda o: pb.CancelImportResponse(operation=convert.import_message(o)),
        )

    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: Any
    ) -> pb.GetDatasetResponse:
        dataset = await self._catalogue.dataset(DatasetName.parse(request.name))
        return pb.GetDatasetResponse(dataset=convert.dataset_message(dataset))

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Any
    ) -> pb.ListDatasetsResponse:
        page = await self._catalogue.datasets(
            TenantName.parse(request.parent), request.page_size, request.page_token
        )
        return pb.ListDatasetsResponse(
            datasets=map(convert.dataset_message, page.items), next_page_token=page.next_token
        )

    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: Any
    ) -> pb.DeleteDatasetResponse:
        return await self._catalogue.delete_dataset(
            DatasetName.parse(request.name), request.etag, lambda _: pb.DeleteDatasetResponse()
        )

    async def GetVersion(
        self, request: pb.GetVersionRequest, context: Any
    ) -> pb.GetVersionResponse:
        version = await self._catalogue.version(VersionName.parse(request.name))
        return pb.GetVersionResponse(version=convert.version_message(version))

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Any
    ) -> pb.ListVersionsResponse:
        page = await self._catalogue.versions(
            DatasetName.parse(request.parent), request.page_size, request.page_token
        )
        return pb.ListVersionsResponse(
            versions=map(convert.version_message, page.items), next_page_token=page.next_token
        )

    async def DeleteVersion(
        self, request: pb.DeleteVersionRequest, context: Any
    ) -> pb.DeleteVersionResponse:
        return await self._catalogue.delete_version(
            VersionName.parse(request.name), lambda _: pb.DeleteVersionResponse()
        )

    async def InspectTarget(
        self, request: pb.InspectTargetRequest, context: Any
    ) -> pb.InspectTargetResponse:
        inspection = await self._catalogue.inspect(
            VersionName.parse(request.name), request.target, convert.task_type(request.task)
        )
        return convert.inspection_message(inspection)
