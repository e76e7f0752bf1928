"""The exporter, over gRPC."""

import asyncio
import uuid

import grpc.aio

from allotment_api.exporter.v1 import exporter_pb2, exporter_pb2_grpc
from allotment_controller import convert
from allotment_controller.domain.experiment import Experiment
from allotment_controller.domain.model import Artefact
from allotment_controller.domain.task import Problem
from allotment_controller.domain.views import ModelView
from allotment_core.errors import Unavailable
from allotment_core.rpc.client import from_rpc_error

_TIMEOUT_S = 10.0
_LONGEST_WATCH_S = 3600.0
_NAMESPACE = uuid.UUID("3f0c6f0e-4f0a-5d0b-9a56-6b1d7f6f2f10")


class GrpcExports:
    """Implements the domain's Exports."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._exports = exporter_pb2_grpc.ExportServiceStub(channel)

    async def create(self, experiment: Experiment, view: ModelView) -> str:
        # A name may be used again after its experiment was deleted: the time tells them apart.
        made = f"{view.model.name}@{view.model.create_time.isoformat()}"
        request = exporter_pb2.CreateExportRequest(
            request_id=uuid.uuid5(_NAMESPACE, made).hex,
            parent=str(experiment.name.tenant),
            source=convert.model_source(experiment, view),
        )
        try:
            response = await self._exports.CreateExport(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        return str(response.export.name)

    async def outcome(self, export: str) -> Artefact | Problem:
        request = exporter_pb2.WatchExportRequest(name=export)
        call = self._exports.WatchExport(request, timeout=_LONGEST_WATCH_S)
        try:
            async for response in call:
                ended = _ended(response.export)
                if ended is not None:
                    return ended
        except grpc.aio.AioRpcError as e:
            if e.code() is grpc.StatusCode.CANCELLED and not _being_cancelled():
                raise Unavailable("the exporter ended the watch of an export") from None
            raise from_rpc_error(e) from None
        finally:
            call.cancel()
        raise Unavailable("the exporter ended the watch of an export")

    async def cancel(self, export: str) -> None:
        request = exporter_pb2.CancelExportRequest(request_id=uuid.uuid4().hex, name=export)
        try:
            await self._exports.CancelExport(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None

    async def delete(self, export: str) -> None:
        request = exporter_pb2.DeleteExportRequest(request_id=uuid.uuid4().hex, name=export)
        try:
            await self._exports.DeleteExport(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _ended(export: exporter_pb2.Export) -> Artefact | Problem | None:
    """How it ended; None while it goes on."""
    if export.state == exporter_pb2.EXPORT_STATE_SUCCEEDED:
        return Artefact(
            artefact_sha256=export.artefact_sha256,
            manifest_sha256=export.manifest_sha256,
            size_bytes=export.measurement.size_bytes,
            latency_ms=export.measurement.latency_p50_ms,
        )
    if export.state == exporter_pb2.EXPORT_STATE_CANCELLED:
        return Problem("EXPORT_CANCELLED", "its export was cancelled")
    if export.state in (exporter_pb2.EXPORT_STATE_REFUSED, exporter_pb2.EXPORT_STATE_FAILED):
        problem = convert.from_problem(export.problem)
        return problem if problem.reason else Problem("EXPORT_FAILED", "its export failed")
    return None
