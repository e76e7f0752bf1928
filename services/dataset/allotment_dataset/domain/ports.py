"""What the domain needs from the outside."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from allotment_core.names import (
    DatasetName,
    ImportName,
    TenantName,
    UploadName,
    VersionName,
)
from allotment_dataset.domain.datasets import Dataset, Version
from allotment_dataset.domain.holds import BlobRecord
from allotment_dataset.domain.imports import Import
from allotment_dataset.domain.table import Inspection, TaskType
from allotment_dataset.domain.uploads import Upload

T = TypeVar("T")
R = TypeVar("R")


class Records(Protocol):
    """The service's records within one transaction.

    `put_*` insert or replace; lists are in the stated order.
    """

    def upload(self, name: UploadName) -> Upload | None: ...
    def put_upload(self, upload: Upload) -> None: ...
    def delete_upload(self, name: UploadName) -> None: ...
    def expired_uploads(self, now: datetime, limit: int) -> Sequence[Upload]: ...
    def upload_in_use(self, name: UploadName) -> bool:
        """Whether an import that has not ended reads it."""
        ...

    def import_(self, name: ImportName) -> Import | None: ...
    def put_import(self, operation: Import) -> None: ...
    def imports(self, tenant: TenantName, before: int, limit: int) -> Sequence[Import]:
        """Newest first, those with a lower sequence than `before` (0: all)."""
        ...

    def unended_imports(self) -> Sequence[Import]:
        """PENDING and RUNNING ones of all tenants, oldest first."""
        ...

    def dataset(self, name: DatasetName) -> Dataset | None: ...
    def put_dataset(self, dataset: Dataset) -> None: ...
    def delete_dataset(self, name: DatasetName) -> None:
        """With its versions and inspections."""
        ...

    def datasets(self, tenant: TenantName, after: str, limit: int) -> Sequence[Dataset]:
        """By id, those with a greater id than `after`."""
        ...

    def version(self, name: VersionName) -> Version | None: ...
    def put_version(self, version: Version) -> None: ...
    def delete_version(self, name: VersionName) -> None: ...
    def versions(self, dataset: DatasetName, after: int, limit: int) -> Sequence[Version]:
        """By number, those with a greater number than `after`."""
        ...

    def latest_number(self, dataset: DatasetName) -> int: ...
    def inspection(self, name: VersionName, target: str, task: TaskType) -> Inspection | None: ...
    def put_inspection(
        self, name: VersionName, target: str, task: TaskType, inspection: Inspection
    ) -> None: ...

    def blob(self, sha256: str) -> BlobRecord | None: ...
    def put_blob(self, blob: BlobRecord) -> None: ...
    def delete_blob(self, sha256: str) -> None: ...
    def unheld_blobs(self, before: datetime, limit: int) -> Sequence[BlobRecord]:
        """LIVE ones without a holder that were touched before; and all COLLECTING ones."""
        ...

    def holds(self, tenant: TenantName, sha256: str) -> bool: ...
    def hold(self, tenant: TenantName, sha256: str, owner: str) -> None: ...
    def release(self, tenant: TenantName, owner: str, now: datetime) -> int:
        """Ends the holds of the owner and of what is below it, and touches their blobs; how
        many.
        """
        ...


class Store(Protocol):
    """Durable records. A work runs in one transaction: all of its changes are stored, or none."""

    async def read(self, work: Callable[[Records], T]) -> T: ...
    async def write(self, work: Callable[[Records], T]) -> T: ...
    async def respond(self, work: Callable[[Records], T], to_response: Callable[[T], R]) -> R:
        """Like `write`, for the one change of a mutating call: a repeated call gets the first
        one's answer.
        """
        ...


class UploadFile(Protocol):
    """The bytes of one upload. Used by one caller at a time."""

    @property
    def size_bytes(self) -> int: ...

    async def append(self, data: bytes) -> None:
        """May return before the bytes are written.

        Raises: ResourceExhausted (DISK_FULL), for bytes of earlier calls too; `size_bytes` tells
            how many are there.
        """
        ...

    async def same(self, offset: int, data: bytes) -> bool:
        """Whether these bytes stand at the offset."""
        ...

    async def sync(self) -> None:
        """Makes all bytes durable. Raises: ResourceExhausted (DISK_FULL)."""
        ...

    async def sha256(self) -> str: ...
    async def clear(self) -> None: ...
    async def close(self) -> None: ...


class UploadFiles(Protocol):
    """Where uploads' bytes are."""

    async def open(self, name: UploadName, size_bytes: int) -> UploadFile:
        """The file with the first `size_bytes` of what is there; made when it is not there.

        Raises: DataLoss when less is there.
        """
        ...

    def path(self, name: UploadName) -> Path: ...
    async def delete(self, name: UploadName) -> None: ...
    async def keep_only(self, keep: Callable[[UploadName], Awaitable[bool]]) -> None:
        """Deletes files whose upload is not kept: left by a crash."""
        ...


class Bytes(Protocol):
    """Content-addressed files; `allotment_core.blobs.FolderBlobStore` is one."""

    async def put_file(self, path: Path, sha256: str) -> object:
        """Moves a finished file in, durably. Raises: ResourceExhausted (DISK_FULL)."""
        ...

    def read(self, sha256: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Raises: NotFound, DataLoss."""
        ...

    async def delete(self, sha256: str) -> None: ...


class Spool(Protocol):
    """Files that are being written, on the disk of the content-addressed ones."""

    async def write(self, chunks: AsyncIterator[bytes], limit_bytes: int) -> tuple[Path, str, int]:
        """A finished file, its sha256 and size.

        Raises: ResourceExhausted (BLOB_TOO_LARGE, DISK_FULL).
        """
        ...

    async def fetch(self, sha256: str, size_bytes: int, folder: Path) -> Path:
        """A blob's bytes as a file in a folder."""
        ...

    async def drop(self, path: Path) -> None:
        """Deletes a file or a folder; nothing when it is gone already."""
        ...

    async def folder(self, label: str) -> Path:
        """A new, empty folder."""
        ...
