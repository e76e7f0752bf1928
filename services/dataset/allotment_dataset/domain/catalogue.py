"""Datasets, their versions, and versions seen with a target."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from allotment_core import paging
from allotment_core.clock import Clock
from allotment_core.errors import InvalidArgument
from allotment_core.etags import check_etag
from allotment_core.names import DatasetName, TenantName, VersionName
from allotment_dataset.domain.column_names import require_column
from allotment_dataset.domain.datasets import (
    LATEST,
    Dataset,
    Version,
    no_such_dataset,
    no_such_version,
    version_name,
    version_number,
)
from allotment_dataset.domain.parsing import InspectJob, Parser
from allotment_dataset.domain.ports import Records, Spool, Store
from allotment_dataset.domain.table import Inspection, TaskType

T = TypeVar("T")
R = TypeVar("R")

_PAGE_BYTES = 2 << 20
_COLUMN_BYTES = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_token: str = ""


class Catalogue:
    """Reads and deletes datasets and versions."""

    def __init__(self, store: Store, spool: Spool, parser: Parser, clock: Clock) -> None:
        self._store = store
        self._spool = spool
        self._parser = parser
        self._clock = clock
        self._looking: dict[tuple[VersionName, str, TaskType], asyncio.Task[Inspection]] = {}

    async def dataset(self, name: DatasetName) -> Dataset:
        dataset = await self._store.read(lambda records: records.dataset(name))
        if dataset is None:
            raise no_such_dataset(name)
        return dataset

    async def datasets(self, tenant: TenantName, size: int, token: str) -> Page[Dataset]:
        limit, key = paging.page_size(size), f"datasets|{tenant}"
        after = paging.decode_token(token, key)
        found = await self._store.read(lambda records: records.datasets(tenant, after, limit + 1))
        more = len(found) > limit
        items = found[:limit]
        last = items[-1].name.dataset_id if more else ""
        return Page(items=items, next_token=paging.encode_token(key, last) if more else "")

    async def delete_dataset(
        self, name: DatasetName, etag: str, to_response: Callable[[None], R]
    ) -> R:
        now = self._clock.now()

        def work(records: Records) -> None:
            dataset = records.dataset(name)
            if dataset is None:
                raise no_such_dataset(name)
            check_etag(etag, dataset.etag, what=str(name))
            records.release(name.tenant, str(name), now)
            records.delete_dataset(name)

        return await self._store.respond(work, to_response)

    async def version(self, name: VersionName) -> Version:
        """The version; "latest" is the newest one."""
        return await self._store.read(lambda records: find_version(records, name))

    async def versions(self, dataset: DatasetName, size: int, token: str) -> Page[Version]:
        """Versions by number; a page ends early where it would be too much for one message."""
        limit, key = paging.page_size(size), f"versions|{dataset}"
        cursor = paging.decode_token(token, key)

        def work(records: Records) -> Sequence[Version]:
            if records.dataset(dataset) is None:
                raise no_such_dataset(dataset)
            return records.versions(dataset, int(cursor or 0), limit + 1)

        found = await self._store.read(work)
        kept = 0
        room = _PAGE_BYTES
        for version in found[:limit]:
            room -= _COLUMN_BYTES * len(version.content.columns)
            if kept and room < 0:
                break
            kept += 1
        more = kept < len(found)
        last = str(found[kept - 1].number) if more else ""
        return Page(items=found[:kept], next_token=paging.encode_token(key, last) if more else "")

    async def delete_version(self, name: VersionName, to_response: Callable[[None], R]) -> R:
        if name.version_id == LATEST:
            raise InvalidArgument(
                "versions/latest can't be deleted, since it moves; name the version by its number",
                reason="NAME_THE_VERSION",
            )
        now = self._clock.now()

        def work(records: Records) -> None:
            version = find_version(records, name)
            dataset = records.dataset(name.dataset)
            if dataset is None:
                raise no_such_dataset(name.dataset)
            records.release(name.tenant, str(version.name), now)
            records.delete_version(version.name)
            latest = records.latest_number(name.dataset)
            records.put_dataset(dataset.without_version(latest, now))

        return await self._store.respond(work, to_response)

    async def inspect(self, name: VersionName, target: str, task: TaskType) -> Inspection:
        """The version with this column as the target.

        Answers are kept; the same question is asked once at a time.

        A caller that gives up does not stop the look: a second try finds its answer.
        """
        version, known = await self._store.read(
            lambda records: _find_inspection(records, name, target, task)
        )
        if known is not None:
            return known
        names = [column.name for column in version.content.columns]
        require_column(target, names, reason="TARGET_NOT_FOUND", what="target")
        key = (version.name, target, task)
        look = self._looking.get(key)
        if look is None:
            look = asyncio.create_task(self._look(version, target, task), name=f"inspect {name}")
            self._looking[key] = look
            look.add_done_callback(lambda done: self._looked(key, done))
        return await asyncio.shield(look)

    def _looked(
        self, key: tuple[VersionName, str, TaskType], done: "asyncio.Task[Inspection]"
    ) -> None:
        self._looking.pop(key, None)
        if not done.cancelled():
            done.exception()  # Seen: whoever still waits has it.

    async def _look(self, version: Version, target: str, task: TaskType) -> Inspection:
        folder = await self._spool.folder("inspect")
        try:
            paths = [
                str(await self._spool.fetch(part.sha256, part.size_bytes, folder))
                for part in version.content.parts
            ]
            job = InspectJob(
                paths=tuple(paths), columns=version.content.columns, target=target, task=task
            )
            inspection = await self._parser.inspect(job)
        finally:
            await self._spool.drop(folder)

        def work(records: Records) -> None:
            if records.version(version.name) is not None:
                records.put_inspection(version.name, target, task, inspection)

        await self._store.write(work)
        return inspection

    async def stop(self) -> None:
        """Gives up the looks that are under way."""
        looks = list(self._looking.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


def find_version(records: Records, name: VersionName) -> Version:
    """The version. Raises: NotFound."""
    number = (
        records.latest_number(name.dataset) if name.version_id == LATEST else version_number(name)
    )
    found = records.version(version_name(name.dataset, number)) if number else None
    if found is None:
        raise no_such_version(name)
    return found


def _find_inspection(
    records: Records, name: VersionName, target: str, task: TaskType
) -> tuple[Version, Inspection | None]:
    version = find_version(records, name)
    known = records.inspection(version.name, target, task)
    if known is None and task is not TaskType.UNSPECIFIED:
        inferred = records.inspection(version.name, target, TaskType.UNSPECIFIED)
        known = inferred if inferred is not None and inferred.task is task else None
    return version, known
