"""The records in SQL."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from google.protobuf.message import Message

from allotment_core.db import Database
from allotment_core.names import (
    DatasetName,
    ImportName,
    TenantName,
    UploadName,
    VersionName,
)
from allotment_dataset.adapters import sql_rows as rows
from allotment_dataset.adapters.tables import (
    blobs,
    datasets,
    holds,
    imports,
    inspections,
    uploads,
    versions,
)
from allotment_dataset.domain.datasets import Dataset, Version
from allotment_dataset.domain.holds import BlobRecord, BlobState
from allotment_dataset.domain.imports import Import, ImportState
from allotment_dataset.domain.ports import Records
from allotment_dataset.domain.table import Inspection, TaskType
from allotment_dataset.domain.table_json import from_json, to_json
from allotment_dataset.domain.uploads import Upload

T = TypeVar("T")
R = TypeVar("R")

_UNENDED = (ImportState.PENDING.value, ImportState.RUNNING.value)


class SqlStore:
    """A `Store` on a Database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, work: Callable[[Records], T]) -> T:
        return await self._database.read(lambda connection: work(SqlRecords(connection)))

    async def write(self, work: Callable[[Records], T]) -> T:
        return await self._database.write(lambda connection: work(SqlRecords(connection)))

    async def respond(self, work: Callable[[Records], T], to_response: Callable[[T], R]) -> R:
        answer = await self._database.respond(
            lambda connection: work(SqlRecords(connection)),
            cast(Callable[[T], Message], to_response),
        )
        return cast(R, answer)


class SqlRecords:
    """`Records` on one connection within a transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def upload(self, name: UploadName) -> Upload | None:
        row = self._one(uploads, tenant=name.tenant.tenant_id, upload=name.upload_id)
        return rows.upload_of(row) if row else None

    def put_upload(self, upload: Upload) -> None:
        self._put(uploads, rows.upload_row(upload), "tenant", "upload")

    def delete_upload(self, name: UploadName) -> None:
        self._delete(uploads, tenant=name.tenant.tenant_id, upload=name.upload_id)

    def expired_uploads(self, now: datetime, limit: int) -> Sequence[Upload]:
        query = sa.select(uploads).where(uploads.c.expire_time <= rows.instant(now)).limit(limit)
        return [rows.upload_of(row) for row in self._connection.execute(query)]

    def upload_in_use(self, name: UploadName) -> bool:
        query = sa.select(imports.c.sequence).where(
            imports.c.state.in_(_UNENDED),
            imports.c.upload_tenant == name.tenant.tenant_id,
            imports.c.upload == name.upload_id,
        )
        return self._connection.execute(query.limit(1)).first() is not None

    def import_(self, name: ImportName) -> Import | None:
        row = self._one(imports, **{"tenant": name.tenant.tenant_id, "import": name.import_id})
        return rows.import_of(row) if row else None

    def put_import(self, operation: Import) -> None:
        self._put(imports, rows.import_row(operation), "tenant", "import")

    def imports(self, tenant: TenantName, before: int, limit: int) -> Sequence[Import]:
        query = sa.select(imports).where(imports.c.tenant == tenant.tenant_id)
        if before:
            query = query.where(imports.c.sequence < before)
        query = query.order_by(imports.c.sequence.desc()).limit(limit)
        return [rows.import_of(row) for row in self._connection.execute(query)]

    def unended_imports(self) -> Sequence[Import]:
        query = sa.select(imports).where(imports.c.state.in_(_UNENDED)).order_by(imports.c.sequence)
        return [rows.import_of(row) for row in self._connection.execute(query)]

    def dataset(self, name: DatasetName) -> Dataset | None:
        row = self._one(datasets, tenant=name.tenant.tenant_id, dataset=name.dataset_id)
        return rows.dataset_of(row) if row else None

    def put_dataset(self, dataset: Dataset) -> None:
        self._put(datasets, rows.dataset_row(dataset), "tenant", "dataset")

    def delete_dataset(self, name: DatasetName) -> None:
        for table in (inspections, versions, datasets):
            self._delete(table, tenant=name.tenant.tenant_id, dataset=name.dataset_id)

    def datasets(self, tenant: TenantName, after: str, limit: int) -> Sequence[Dataset]:
        query = (
            sa.select(datasets)
            .where(datasets.c.tenant == tenant.tenant_id, datasets.c.dataset > after)
            .order_by(datasets.c.dataset)
            .limit(limit)
        )
        return [rows.dataset_of(row) for row in self._connection.execute(query)]

    def version(self, name: VersionName) -> Version | None:
        row = self._one(versions, **_version_key(name))
        return rows.version_of(row) if row else None

    def put_version(self, version: Version) -> None:
        self._connection.execute(versions.insert().values(rows.version_row(version)))

    def delete_version(self, name: VersionName) -> None:
        self._delete(inspections, **_version_key(name))
        self._delete(versions, **_version_key(name))

    def versions(self, dataset: DatasetName, after: int, limit: int) -> Sequence[Version]:
        query = (
            sa.select(versions)
            .where(
                versions.c.tenant == dataset.tenant.tenant_id,
                versions.c.dataset == dataset.dataset_id,
                versions.c.number > after,
            )
            .order_by(versions.c.number)
            .limit(limit)
        )
        return [rows.version_of(row) for row in self._connection.execute(query)]

    def latest_number(self, dataset: DatasetName) -> int:
        query = sa.select(sa.func.max(versions.c.number)).where(
            versions.c.tenant == dataset.tenant.tenant_id,
            versions.c.dataset == dataset.dataset_id,
        )
        return self._connection.execute(query).scalar() or 0

    def inspection(self, name: VersionName, target: str, task: TaskType) -> Inspection | None:
        row = self._one(inspections, **_version_key(name), target=target, task=task.value)
        return from_json(Inspection, row.content) if row else None

    def put_inspection(
        self, name: VersionName, target: str, task: TaskType, inspection: Inspection
    ) -> None:
        values = {**_version_key(name), "target": target, "task": task.value}
        values["content"] = to_json(inspection)
        self._put(inspections, values, "tenant", "dataset", "number", "target", "task")

    def blob(self, sha256: str) -> BlobRecord | None:
        row = self._one(blobs, sha256=sha256)
        return rows.blob_of(row) if row else None

    def put_blob(self, blob: BlobRecord) -> None:
        self._put(blobs, rows.blob_row(blob), "sha256")

    def delete_blob(self, sha256: str) -> None:
        self._delete(blobs, sha256=sha256)

    def unheld_blobs(self, before: datetime, limit: int) -> Sequence[BlobRecord]:
        unheld = ~sa.exists().where(holds.c.sha256 == blobs.c.sha256)
        query = sa.select(blobs).where(
            sa.or_(
                blobs.c.state == BlobState.COLLECTING.value,
                sa.and_(blobs.c.touch_time < rows.instant(before), unheld),
            )
        )
        return [rows.blob_of(row) for row in self._connection.execute(query.limit(limit))]

    def holds(self, tenant: TenantName, sha256: str) -> bool:
        query = (
            sa.select(holds.c.owner)
            .join(blobs, blobs.c.sha256 == holds.c.sha256)
            .where(
                holds.c.tenant == tenant.tenant_id,
                holds.c.sha256 == sha256,
                blobs.c.state == BlobState.LIVE.value,
            )
        )
        return self._connection.execute(query.limit(1)).first() is not None

    def hold(self, tenant: TenantName, sha256: str, owner: str) -> None:
        values = {"tenant": tenant.tenant_id, "sha256": sha256, "owner": owner}
        self._put(holds, values, "sha256", "tenant", "owner")

    def release(self, tenant: TenantName, owner: str, now: datetime) -> int:
        # "/" is followed by "0": all names below the owner, and no others, are between.
        below = sa.and_(holds.c.owner > owner + "/", holds.c.owner < owner + "0")
        chosen = sa.and_(holds.c.tenant == tenant.tenant_id, sa.or_(holds.c.owner == owner, below))
        touched = sa.select(holds.c.sha256).where(chosen)
        self._connection.execute(
            blobs.update().where(blobs.c.sha256.in_(touched)).values(touch_time=rows.instant(now))
        )
        return self._connection.execute(holds.delete().where(chosen)).rowcount

    def _one(self, table: sa.Table, **key: Any) -> Any:
        return self._connection.execute(sa.select(table).where(*_equal(table, key))).one_or_none()

    def _delete(self, table: sa.Table, **key: Any) -> None:
        self._connection.execute(table.delete().where(*_equal(table, key)))

    def _put(self, table: sa.Table, values: Mapping[str, Any], *key: str) -> None:
        """Updates the row with this key, or inserts it: no writer gets in between."""
        rest = {name: value for name, value in values.items() if name not in key}
        where = _equal(table, {name: values[name] for name in key})
        if rest:
            changed = self._connection.execute(table.update().where(*where).values(rest)).rowcount
        else:
            found = self._connection.execute(sa.select(table).where(*where)).first()
            changed = 0 if found is None else 1
        if not changed:
            self._connection.execute(table.insert().values(values))


def _equal(table: sa.Table, key: Mapping[str, Any]) -> list[Any]:
    return [table.c[name] == value for name, value in key.items()]


def _version_key(name: VersionName) -> dict[str, Any]:
    return {
        "tenant": name.tenant.tenant_id,
        "dataset": name.dataset.dataset_id,
        "number": int(name.version_id),
    }
