"""Datasets and their immutable versions."""

from dataclasses import dataclass, replace
from datetime import datetime

from allotment_core.errors import NotFound, clip
from allotment_core.etags import etag_of
from allotment_core.names import DatasetName, VersionName
from allotment_dataset.domain.table import TableContent

LATEST = "latest"
"""As a version's id: the newest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """`latest_number` 0: it has no version (any more). Numbers are never given twice."""

    name: DatasetName
    latest_number: int = 0
    next_number: int = 1
    version_count: int = 0
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        content = (
            f"{self.name}|{self.latest_number}|{self.version_count}|{self.update_time.isoformat()}"
        )
        return etag_of(content.encode())

    @property
    def latest(self) -> VersionName | None:
        return version_name(self.name, self.latest_number) if self.latest_number else None

    def with_version(self, now: datetime) -> "Dataset":
        """With one version more, the next number's."""
        return replace(
            self,
            latest_number=self.next_number,
            next_number=self.next_number + 1,
            version_count=self.version_count + 1,
            update_time=now,
        )

    def without_version(self, latest_number: int, now: datetime) -> "Dataset":
        return replace(
            self,
            latest_number=latest_number,
            version_count=self.version_count - 1,
            update_time=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    name: VersionName
    content: TableContent
    create_time: datetime

    @property
    def number(self) -> int:
        return int(self.name.version_id)


def version_name(dataset: DatasetName, number: int) -> VersionName:
    return VersionName(dataset, str(number))


def version_number(name: VersionName) -> int:
    """The number in a version's name. Raises: NotFound for a name that no version has."""
    text = name.version_id
    if not text.isascii() or not text.isdigit() or len(text) > 9 or str(int(text)) != text:
        raise no_such_version(name)
    return int(text)


def no_such_dataset(name: DatasetName) -> NotFound:
    return NotFound(f"{clip(name)} does not exist; list the tenant's datasets for those that do")


def no_such_version(name: VersionName) -> NotFound:
    return NotFound(f"{clip(name)} does not exist; list the dataset's versions for those that do")
