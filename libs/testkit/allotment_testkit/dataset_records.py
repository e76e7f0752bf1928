"""The contract of the dataset service's store, as tests that every adapter passes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from allotment_core.names import DatasetName, ImportName, TenantName, UploadName
from allotment_dataset.domain.datasets import Dataset, Version, version_name
from allotment_dataset.domain.holds import BlobRecord, BlobState
from allotment_dataset.domain.imports import Import, ImportRequest
from allotment_dataset.domain.ports import Store
from allotment_dataset.domain.table import (
    ColumnOverride,
    ColumnRole,
    FileFormat,
    Inspection,
    Part,
    Reading,
    TableContent,
    TaskType,
)
from allotment_dataset.domain.uploads import Upload

NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
ACME, OTHER = TenantName("acme"), TenantName("other")
IRIS = DatasetName(ACME, "iris")
CONTENT = TableContent(
    columns=(),
    parts=(Part(sha256="a" * 64, size_bytes=3),),
    row_count=5,
    duplicate_row_count=0,
    reading=Reading(format=FileFormat.DELIMITED),
    source_sha256="b" * 64,
)


def upload(upload_id: str, *, expires: datetime = NOW) -> Upload:
    return Upload(name=UploadName(ACME, upload_id), create_time=NOW, expire_time=expires)


def operation(import_id: str, tenant: TenantName = ACME) -> Import:
    request = ImportRequest(
        upload=UploadName(tenant, "u"),
        dataset=DatasetName(tenant, "iris"),
        overrides=(ColumnOverride(column="x", role=ColumnRole.GROUP),),
        target_hint="y",
    )
    name = ImportName(tenant, import_id)
    return Import(name=name, request=request, create_time=NOW, update_time=NOW)


def blob(sha256: str, *, touched: datetime = NOW) -> BlobRecord:
    return BlobRecord(
        sha256=sha256,
        size_bytes=1,
        incarnation="i-1",
        state=BlobState.LIVE,
        touch_time=touched,
    )


async def put(store: Store, **records: Any) -> None:
    """Calls `put_<kind>` for every given record, in one transaction."""

    def work(r: Any) -> None:
        for kind, record in records.items():
            getattr(r, f"put_{kind.rstrip('0123456789')}")(record)

    await store.write(work)


class StoreConformance:
    """Subclasses give a fixture `store`, empty."""

    async def test_uploads(self, store: Store) -> None:
        first = upload("u1")
        await put(store, upload=first)
        assert await store.read(lambda r: r.upload(first.name)) == first
        done = first.completed(7, "c" * 64, NOW)
        await put(store, upload=done)
        assert await store.read(lambda r: r.upload(first.name)) == done
        assert await store.read(lambda r: r.upload(UploadName(OTHER, "u1"))) is None
        await store.write(lambda r: r.delete_upload(first.name))
        assert await store.read(lambda r: r.upload(first.name)) is None

    async def test_expired_uploads(self, store: Store) -> None:
        await put(
            store, upload1=upload("u1"), upload2=upload("u2", expires=NOW + timedelta(seconds=1))
        )
        found = await store.read(lambda r: r.expired_uploads(NOW, 10))
        assert [u.name.upload_id for u in found] == ["u1"]

    async def test_imports_come_newest_first_and_by_tenant(self, store: Store) -> None:
        for import_id in ("i1", "i2", "i3"):
            await put(store, import0=operation(import_id))
        await put(store, import0=operation("i1", OTHER))
        found = await store.read(lambda r: r.imports(ACME, 0, 2))
        assert [o.name.import_id for o in found] == ["i3", "i2"]
        rest = await store.read(lambda r: r.imports(ACME, found[-1].sequence, 2))
        assert [o.name.import_id for o in rest] == ["i1"]

    async def test_imports_keep_all_they_were_asked_for(self, store: Store) -> None:
        wanted = operation("i1").started(NOW).succeeded(version_name(IRIS, 2), NOW)
        await put(store, import0=wanted)
        found = await store.read(lambda r: r.import_(wanted.name))
        assert found is not None
        assert found.sequence > 0
        assert (found.request, found.state, found.version) == (
            wanted.request,
            wanted.state,
            wanted.version,
        )

    async def test_an_import_keeps_its_place_through_changes(self, store: Store) -> None:
        first, second = operation("i1"), operation("i2")
        await put(store, import1=first, import2=second)
        await put(store, import0=first.started(NOW))
        unended = await store.read(lambda r: r.unended_imports())
        assert [o.name.import_id for o in unended] == ["i1", "i2"]
        await put(store, import0=second.cancelled(NOW))
        unended = await store.read(lambda r: r.unended_imports())
        assert [o.name.import_id for o in unended] == ["i1"]

    async def test_an_upload_is_in_use_until_its_imports_ended(self, store: Store) -> None:
        pending = operation("i1")
        await put(store, import0=pending)
        assert await store.read(lambda r: r.upload_in_use(UploadName(ACME, "u")))
        assert not await store.read(lambda r: r.upload_in_use(UploadName(OTHER, "u")))
        await put(store, import0=pending.cancelled(NOW))
        assert not await store.read(lambda r: r.upload_in_use(UploadName(ACME, "u")))

    async def test_datasets_are_listed_by_id(self, store: Store) -> None:
        for dataset_id in ("b", "a", "c"):
            name = DatasetName(ACME, dataset_id)
            await put(store, dataset=Dataset(name=name, create_time=NOW, update_time=NOW))
        found = await store.read(lambda r: r.datasets(ACME, "a", 10))
        assert [d.name.dataset_id for d in found] == ["b", "c"]
        assert await store.read(lambda r: r.datasets(OTHER, "", 10)) == []

    async def test_versions_and_inspections(self, store: Store) -> None:
        dataset = Dataset(name=IRIS, create_time=NOW, update_time=NOW).with_version(NOW)
        versions = [
            Version(name=version_name(IRIS, n), content=CONTENT, create_time=NOW)
            for n in (1, 2, 10)
        ]
        await put(store, dataset=dataset, **{f"version{v.number}": v for v in versions})
        assert await store.read(lambda r: r.version(versions[2].name)) == versions[2]
        assert await store.read(lambda r: r.versions(IRIS, 1, 10)) == versions[1:]
        assert await store.read(lambda r: r.latest_number(IRIS)) == 10
        look = Inspection(task=TaskType.BINARY, labelled_row_count=3)
        key = (versions[1].name, "y", TaskType.UNSPECIFIED)
        for _ in range(2):
            await store.write(lambda r: r.put_inspection(*key, look))
        assert await store.read(lambda r: r.inspection(*key)) == look
        await store.write(lambda r: r.delete_version(versions[1].name))
        assert await store.read(lambda r: r.inspection(*key)) is None
        await store.write(lambda r: r.delete_dataset(IRIS))
        assert await store.read(lambda r: r.versions(IRIS, 0, 10)) == []
        assert await store.read(lambda r: r.latest_number(IRIS)) == 0

    async def test_holds_are_of_tenants(self, store: Store) -> None:
        owner = "tenants/acme/experiments/e"

        def work(r: Any) -> None:
            r.put_blob(blob("a" * 64))
            r.hold(ACME, "a" * 64, owner)
            r.hold(ACME, "a" * 64, owner)

        await store.write(work)
        assert await store.read(lambda r: r.holds(ACME, "a" * 64))
        assert not await store.read(lambda r: r.holds(OTHER, "a" * 64))
        assert await store.write(lambda r: r.release(OTHER, owner, NOW)) == 0
        assert await store.write(lambda r: r.release(ACME, owner, NOW)) == 1

    @pytest.mark.parametrize(
        ("owner", "released"),
        [
            ("tenants/acme/experiments/e", 2),
            ("tenants/acme/experiments/e/trials/1", 1),
            ("tenants/acme/experiments/e1", 1),
            ("tenants/acme/experiments/_", 0),
        ],
    )
    async def test_releasing_takes_what_is_below(
        self, store: Store, owner: str, released: int
    ) -> None:
        def work(r: Any) -> None:
            r.put_blob(blob("a" * 64))
            for below in ("e", "e/trials/1", "e1", "e-1", "e.1"):
                r.hold(ACME, "a" * 64, f"tenants/acme/experiments/{below}")

        await store.write(work)
        assert await store.write(lambda r: r.release(ACME, owner, NOW)) == released

    async def test_unheld_blobs(self, store: Store) -> None:
        early = NOW - timedelta(seconds=1)

        def work(r: Any) -> None:
            r.put_blob(blob("a" * 64, touched=early))
            r.put_blob(blob("b" * 64, touched=NOW))
            r.put_blob(blob("c" * 64, touched=early))
            r.hold(ACME, "c" * 64, "tenants/acme/experiments/e")

        await store.write(work)
        found = await store.read(lambda r: r.unheld_blobs(NOW, 10))
        assert [b.sha256 for b in found] == ["a" * 64]
        await store.write(lambda r: r.release(ACME, "tenants/acme/experiments/e", NOW))
        assert len(await store.read(lambda r: r.unheld_blobs(NOW, 10))) == 1

    async def test_a_work_that_fails_changes_nothing(self, store: Store) -> None:
        def work(r: Any) -> None:
            r.put_upload(upload("u1"))
            raise LookupError

        with pytest.raises(LookupError):
            await store.write(work)
        assert await store.read(lambda r: r.upload(UploadName(ACME, "u1"))) is None
