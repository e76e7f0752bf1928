"""Rows to values and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from allotment_core.names import (
    DatasetName,
    ImportName,
    TenantName,
    UploadName,
)
from allotment_dataset.domain.datasets import Dataset, Version, version_name
from allotment_dataset.domain.holds import BlobRecord, BlobState
from allotment_dataset.domain.imports import Import, ImportRequest, ImportState
from allotment_dataset.domain.table import ColumnOverride, FileFormat, TableContent
from allotment_dataset.domain.table_json import from_json, to_json
from allotment_dataset.domain.uploads import Upload

Row = Any
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overrides:
    items: tuple[ColumnOverride, ...] = ()


def instant(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _time(value: int) -> datetime:
    return _EPOCH + value * _MICROSECOND


def upload_row(upload: Upload) -> Mapping[str, Any]:
    return {
        "tenant": upload.name.tenant.tenant_id,
        "upload": upload.name.upload_id,
        "received_bytes": upload.received_bytes,
        "announced_bytes": upload.announced_bytes,
        "announced_sha256": upload.announced_sha256,
        "sha256": upload.sha256,
        "complete": upload.complete,
        "create_time": instant(upload.create_time),
        "expire_time": instant(upload.expire_time),
    }


def upload_of(row: Row) -> Upload:
    return Upload(
        name=UploadName(TenantName(row.tenant), row.upload),
        received_bytes=row.received_bytes,
        announced_bytes=row.announced_bytes,
        announced_sha256=row.announced_sha256,
        sha256=row.sha256,
        complete=row.complete,
        create_time=_time(row.create_time),
        expire_time=_time(row.expire_time),
    )


def import_row(operation: Import) -> Mapping[str, Any]:
    """Without its sequence, which the database gives."""
    request = operation.request
    return {
        "tenant": operation.name.tenant.tenant_id,
        "import": operation.name.import_id,
        "state": operation.state.value,
        "progress": operation.progress,
        "stage": operation.stage,
        "problem_reason": operation.problem_reason,
        "problem_message": operation.problem_message,
        "version": int(operation.version.version_id) if operation.version else 0,
        "attempts": operation.attempts,
        "upload_tenant": request.upload.tenant.tenant_id,
        "upload": request.upload.upload_id,
        "dataset_tenant": request.dataset.tenant.tenant_id,
        "dataset": request.dataset.dataset_id,
        "append": request.append,
        "format": request.format.value,
        "overrides": to_json(_Overrides(items=request.overrides)),
        "target_hint": request.target_hint,
        "create_time": instant(operation.create_time),
        "update_time": instant(operation.update_time),
    }


def import_of(row: Row) -> Import:
    dataset = DatasetName(TenantName(row.dataset_tenant), row.dataset)
    return Import(
        name=ImportName(TenantName(row.tenant), row._mapping["import"]),
        request=ImportRequest(
            upload=UploadName(TenantName(row.upload_tenant), row.upload),
            dataset=dataset,
            append=row.append,
            format=FileFormat(row.format),
            overrides=from_json(_Overrides, row.overrides).items,
            target_hint=row.target_hint,
        ),
        state=ImportState(row.state),
        progress=row.progress,
        stage=row.stage,
        problem_reason=row.problem_reason,
        problem_message=row.problem_message,
        version=version_name(dataset, row.version) if row.version else None,
        attempts=row.attempts,
        create_time=_time(row.create_time),
        update_time=_time(row.update_time),
        sequence=row.sequence,
    )


def dataset_row(dataset: Dataset) -> Mapping[str, Any]:
    return {
        "tenant": dataset.name.tenant.tenant_id,
        "dataset": dataset.name.dataset_id,
        "latest_number": dataset.latest_number,
        "next_number": dataset.next_number,
        "version_count": dataset.version_count,
        "create_time": instant(dataset.create_time),
        "update_time": instant(dataset.update_time),
    }


def dataset_of(row: Row) -> Dataset:
    return Dataset(
        name=DatasetName(TenantName(row.tenant), row.dataset),
        latest_number=row.latest_number,
        next_number=row.next_number,
        version_count=row.version_count,
        create_time=_time(row.create_time),
        update_time=_time(row.update_time),
    )


def version_row(version: Version) -> Mapping[str, Any]:
    return {
        "tenant": version.name.tenant.tenant_id,
        "dataset": version.name.dataset.dataset_id,
        "number": version.number,
        "content": to_json(version.content),
        "create_time": instant(version.create_time),
    }


def version_of(row: Row) -> Version:
    return Version(
        name=version_name(DatasetName(TenantName(row.tenant), row.dataset), row.number),
        content=from_json(TableContent, row.content),
        create_time=_time(row.create_time),
    )


def blob_row(blob: BlobRecord) -> Mapping[str, Any]:
    return {
        "sha256": blob.sha256,
        "size_bytes": blob.size_bytes,
        "incarnation": blob.incarnation,
        "state": blob.state.value,
        "touch_time": instant(blob.touch_time),
    }


def blob_of(row: Row) -> BlobRecord:
    return BlobRecord(
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        incarnation=row.incarnation,
        state=BlobState(row.state),
        touch_time=_time(row.touch_time),
    )
