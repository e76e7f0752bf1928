"""ExportService: messages in, messages out."""

from collections.abc import AsyncIterator
from typing import Any

from allotment_api.exporter.v1 import exporter_pb2 as pb
from allotment_core.errors import InvalidArgument
from allotment_core.names import ExportName, TenantName
from allotment_core.paging import decode_token, encode_token, page_size
from allotment_exporter.domain.exporter import Exporter
from allotment_exporter.messages import from_export, to_source


class ExportServicer:
    """Every method of ExportService."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    async def CreateExport(
        self, request: pb.CreateExportRequest, context: Any
    ) -> pb.CreateExportResponse:
        return await self._exporter.create(
            TenantName.parse(request.parent),
            to_source(request.source, request.precision),
            lambda export: pb.CreateExportResponse(export=from_export(export)),
        )

    async def GetExport(self, request: pb.GetExportRequest, context: Any) -> pb.GetExportResponse:
        export = await self._exporter.get(ExportName.parse(request.name))
        return pb.GetExportResponse(export=from_export(export))

    async def ListExports(
        self, request: pb.ListExportsRequest, context: Any
    ) -> pb.ListExportsResponse:
        tenant = TenantName.parse(request.parent)
        key = f"exports:{tenant}"
        after = _place(decode_token(request.page_token, key))
        exports, following = await self._exporter.page(tenant, page_size(request.page_size), after)
        return pb.ListExportsResponse(
            exports=map(from_export, exports),
            next_page_token="" if following is None else encode_token(key, str(following)),
        )

    async def WatchExport(
        self, request: pb.WatchExportRequest, context: Any
    ) -> AsyncIterator[pb.WatchExportResponse]:
        async for export in self._exporter.watch(ExportName.parse(request.name)):
            yield pb.WatchExportResponse(export=from_export(export))

    async def CancelExport(
        self, request: pb.CancelExportRequest, context: Any
    ) -> pb.CancelExportResponse:
        return await self._exporter.cancel(
            ExportName.parse(request.name),
            lambda export: pb.CancelExportResponse(export=from_export(export)),
        )

    async def DeleteExport(
        self, request: pb.DeleteExportRequest, context: Any
    ) -> pb.DeleteExportResponse:
        return await self._exporter.delete(
            ExportName.parse(request.name), lambda _: pb.DeleteExportResponse()
        )


def _place(cursor: str) -> int:
    """The place that a page token holds; 0 for the first page."""
    if not cursor:
        return 0
    if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 18:
        raise InvalidArgument(
            "page_token does not belong to this list; begin with an empty token",
            reason="INVALID_PAGE_TOKEN",
        )
    return int(cursor)
