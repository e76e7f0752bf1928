"""Labelled data: `client.datasets`."""

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc.aio

from allotment import convert
from allotment.aio.group import PAGE_SIZE, Group
from allotment.connection import Connection, new_request_id
from allotment.download import fetch_blob
from allotment.naming import Named, version_name
from allotment.types import (
    ColumnRole,
    ColumnType,
    Dataset,
    DatasetVersion,
    Progress,
    TargetReport,
    TaskType,
)
from allotment.upload import OnProgress, Source, Upload, opened
from allotment_api.common.v1 import table_pb2
from allotment_api.dataset.v1 import dataset_pb2 as wire
from allotment_api.dataset.v1.dataset_pb2_grpc import DatasetServiceStub
from allotment_core.errors import InvalidArgument

_ENDED = (wire.IMPORT_STATE_SUCCEEDED, wire.IMPORT_STATE_FAILED, wire.IMPORT_STATE_CANCELLED)


class Datasets(Group):
    """Upload, look at and delete labelled data."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = DatasetServiceStub(connection.channel)

    async def upload(
        self,
        source: Source,
        *,
        dataset_id: str = "",
        append_to: str | Named = "",
        types: Mapping[str, ColumnType | str] | None = None,
        roles: Mapping[str, ColumnRole | str] | None = None,
        target_hint: str = "",
        progress: OnProgress | None = None,
    ) -> DatasetVersion:
        """A file (CSV, TSV, Parquet, JSONL) or data frame as a new dataset, or as a new version of
        one.

        `types` and `roles` say what is known better than inference; with `target_hint` that column
        is kept whatever it looks like. Goes on by itself after a lost connection. Raises:
        AllotmentError with the import's reason.
        """
        append_name = self._name(append_to, "datasets") if append_to else ""
        with opened(source) as (file, size_bytes, file_format):
            upload = Upload(self._connection, file, size_bytes)
            name = await upload.send(progress)
        request = wire.CreateImportRequest(
            request_id=new_request_id(),
            parent=self._tenant,
            upload=name,
            dataset_id=append_name.rsplit("/", 1)[-1] or dataset_id,
            append=bool(append_name),
            format=file_format,
            overrides=_overrides(types or {}, roles or {}),
            target_hint=target_hint,
        )
        operation = (await self._call(self._stub.CreateImport, request)).operation
        ended = await self._ended(operation, progress)
        await upload.drop(name)
        if ended.state != wire.IMPORT_STATE_SUCCEEDED:
            raise InvalidArgument(
                ended.problem.message
                or f"the import {ended.name} was cancelled; upload the file again",
                reason=ended.problem.reason or "IMPORT_CANCELLED",
            )
        return await self.version(ended.version)

    async def _ended(self, operation: wire.Import, progress: OnProgress | None) -> wire.Import:
        name = operation.name
        request = wire.WatchImportRequest(name=name)

        def open_stream() -> AsyncIterator[wire.WatchImportResponse]:
            call: grpc.aio.UnaryStreamCall[wire.WatchImportRequest, wire.WatchImportResponse] = (
                self._stub.WatchImport(request)
            )
            return call.__aiter__()

        while operation.state not in _ENDED:
            async for change in self._connection.follow(open_stream):
                operation = change.operation
                if progress:
                    stage = operation.stage.lower() or "queued"
                    progress(Progress(stage=stage, fraction=operation.progress))
        return operation

    async def get(self, dataset: str | Named) -> Dataset:
        request = wire.GetDatasetRequest(name=self._name(dataset, "datasets"))
        return convert.dataset((await self._call(self._stub.GetDataset, request)).dataset)

    async def list(self) -> AsyncIterator[Dataset]:
        """Every dataset of the tenant."""
        async for page in self._pages(
            self._stub.ListDatasets,
            lambda token: wire.ListDatasetsRequest(
                parent=self._tenant, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            for item in page.datasets:
                yield convert.dataset(item)

    async def delete(self, dataset: str | Named, *, etag: str = "") -> None:
        """Deletes a dataset with all its versions."""
        request = wire.DeleteDatasetRequest(
            request_id=new_request_id(), name=self._name(dataset, "datasets"), etag=etag
        )
        await self._call(self._stub.DeleteDataset, request)

    async def version(self, version: str | Named) -> DatasetVersion:
        """A version; a dataset stands for its latest one."""
        request = wire.GetVersionRequest(name=version_name(version, self._tenant))
        return convert.version((await self._call(self._stub.GetVersion, request)).version)

    async def versions(self, dataset: str | Named) -> AsyncIterator[DatasetVersion]:
        parent = self._name(dataset, "datasets")
        async for page in self._pages(
            self._stub.ListVersions,
            lambda token: wire.ListVersionsRequest(parent=parent, page_size=50, page_token=token),
        ):
            for item in page.versions:
                yield convert.version(item)

    async def delete_version(self, version: str | Named) -> None:
        request = wire.DeleteVersionRequest(
            request_id=new_request_id(), name=version_name(version, self._tenant)
        )
        await self._call(self._stub.DeleteVersion, request)

    async def inspect_target(
        self, version: str | Named, target: str, *, task: TaskType | str = ""
    ) -> TargetReport:
        """What learning this column would mean: the task, its classes, what is suspicious."""
        request = wire.InspectTargetRequest(
            name=version_name(version, self._tenant),
            target=target,
            task=convert.task_to_wire(task) if task else table_pb2.TASK_TYPE_UNSPECIFIED,
        )
        return convert.target_report(await self._call(self._stub.InspectTarget, request))

    async def download(
        self, version: str | Named, folder: str | os.PathLike[str]
    ) -> tuple[Path, ...]:
        """The version's rows as Parquet files part-00000.parquet, ... in a folder, checked against
        their sha256.
        """
        found = version if isinstance(version, DatasetVersion) else await self.version(version)
        tenant = found.name.split("/datasets/")[0]
        paths = []
        for number, sha256 in enumerate(found.part_sha256):
            path = Path(folder) / f"part-{number:05d}.parquet"
            await fetch_blob(self._connection, f"{tenant}/blobs/{sha256}", path)
            paths.append(path)
        return tuple(paths)


def _overrides(
    types: Mapping[str, ColumnType | str], roles: Mapping[str, ColumnRole | str]
) -> list[wire.ColumnOverride]:
    return [
        wire.ColumnOverride(
            column=column,
            type=convert.column_type_to_wire(types.get(column, "unspecified")),
            role=convert.column_role_to_wire(roles.get(column, "unspecified")),
        )
        for column in dict.fromkeys([*types, *roles])
    ]
