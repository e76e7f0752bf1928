"""The dataset service, over gRPC."""

import uuid
from collections.abc import Sequence

import grpc.aio

from allotment_api.common.v1 import table_pb2
from allotment_api.dataset.v1 import blob_pb2, blob_pb2_grpc, dataset_pb2, dataset_pb2_grpc
from allotment_controller import convert
from allotment_controller.domain.ports import ColumnView, TableView, TargetView
from allotment_controller.domain.task import TaskType
from allotment_core.errors import DataLoss, OutOfRange
from allotment_core.names import (
    BlobName,
    CheckpointName,
    ExperimentName,
    ModelName,
    TenantName,
    TrialName,
    VersionName,
)
from allotment_core.rpc.client import from_rpc_error

_READ_TIMEOUT_S = 8.0
_TIMEOUT_S = 10.0


class GrpcDatasets:
    """Implements the domain's Datasets."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._datasets = dataset_pb2_grpc.DatasetServiceStub(channel)
        self._blobs = blob_pb2_grpc.BlobServiceStub(channel)

    async def version(self, name: VersionName) -> TableView:
        request = dataset_pb2.GetVersionRequest(name=str(name))
        try:
            response = await self._datasets.GetVersion(request, timeout=_READ_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        version = response.version
        return TableView(
            version=VersionName.parse(version.name),
            row_count=version.table.row_count,
            columns=tuple(_column(c) for c in version.table.columns),
            warnings=tuple(convert.notice(w) for w in version.warnings),
            table=version.table.SerializeToString(deterministic=True),
        )

    async def inspect(self, name: VersionName, target: str, task: TaskType | None) -> TargetView:
        request = dataset_pb2.InspectTargetRequest(
            name=str(name),
            target=target,
            task=convert.task(task) if task else table_pb2.TASK_TYPE_UNSPECIFIED,
        )
        try:
            response = await self._datasets.InspectTarget(request, timeout=_READ_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        inferred = convert.from_task(response.task)
        if inferred is None:
            raise DataLoss(f"the dataset service named no task for target {target[:80]!r}")
        return TargetView(
            task=inferred,
            labelled_row_count=response.labelled_row_count,
            classes=tuple(c.label for c in response.classes),
            warnings=tuple(convert.notice(w) for w in response.warnings),
            rarest_share=min((c.count for c in response.classes), default=0)
            / max(1, response.labelled_row_count),
        )

    async def hold(self, owner: ModelName, sha256s: Sequence[str]) -> None:
        request = blob_pb2.HoldBlobsRequest(
            request_id=uuid.uuid4().hex,
            owner=str(owner),
            names=[str(BlobName(owner.tenant, s)) for s in dict.fromkeys(sha256s)],
        )
        try:
            await self._blobs.HoldBlobs(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None

    async def read(self, tenant: TenantName, sha256: str, limit_bytes: int) -> bytes:
        request = blob_pb2.ReadBlobRequest(name=str(BlobName(tenant, sha256)))
        call = self._blobs.ReadBlob(request, timeout=_READ_TIMEOUT_S)
        content = bytearray()
        try:
            async for response in call:
                content += response.data
                if len(content) > limit_bytes:
                    raise OutOfRange(
                        f"blob {sha256} has more than the {limit_bytes} bytes that are read",
                        reason="BLOB_TOO_LARGE",
                    )
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        finally:
            call.cancel()
        return bytes(content)

    async def size_bytes(self, tenant: TenantName, sha256: str) -> int:
        request = blob_pb2.GetBlobRequest(name=str(BlobName(tenant, sha256)))
        try:
            response = await self._blobs.GetBlob(request, timeout=_READ_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None
        return int(response.blob.size_bytes)

    async def release(self, owner: ExperimentName) -> None:
        await self._release(str(owner))

    async def release_checkpoints(self, trial: TrialName) -> None:
        await self._release(str(CheckpointName(trial.experiment, trial.trial_id)))

    async def _release(self, owner: str) -> None:
        request = blob_pb2.ReleaseBlobsRequest(request_id=uuid.uuid4().hex, owner=owner)
        try:
            await self._blobs.ReleaseBlobs(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from None


def _column(message: table_pb2.Column) -> ColumnView:
    statistics = message.statistics
    return ColumnView(
        name=message.name,
        type=table_pb2.ColumnType.Name(message.type).removeprefix("COLUMN_TYPE_").lower(),
        ignored=message.role == table_pb2.COLUMN_ROLE_IGNORED,
        role=table_pb2.ColumnRole.Name(message.role).removeprefix("COLUMN_ROLE_").lower(),
        minimum=statistics.minimum if statistics.HasField("minimum") else None,
        missing_count=statistics.missing_count,
        distinct_count=statistics.distinct_count,
    )
