"""What every ExportStore promises; SQL is the one there is, of two kinds."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_core.errors import FailedPrecondition, NotFound, ResourceExhausted
from allotment_core.names import ExportName, TenantName
from allotment_exporter.adapters.sql_store import MIGRATIONS, SqlExportStore
from allotment_exporter.domain.exports import (
    Calibration,
    Export,
    ExportState,
    Measurement,
    Member,
    ModelSource,
    OffendingRow,
    ParityReport,
    Problem,
    Task,
)
from allotment_exporter.messages import from_export

NOW = datetime(2026, 11, 21, 12, 30, 1, 250_000, tzinfo=UTC)
A, B = TenantName("a"), TenantName("b")
SOURCE = ModelSource(
    model="tenants/a/experiments/e/models/1",
    graph_sha256="a" * 64,
    reference_sha256="b" * 64,
    task=Task.BINARY,
    classes=("nein", "jä"),
    target="y",
    metric="auc",
    score=0.1 + 0.2,
    metrics={"accuracy": 0.9},
    dataset_version="tenants/a/datasets/d/versions/1",
    trials=(),
    family="families/linear",
    library_versions={},
    validation_row_count=100,
    seed=2**64 - 1,
    members=(
        Member(
            trial="tenants/a/experiments/e/trials/1",
            weight=0.1 + 0.2,
            family="families/linear",
            graph_sha256="a" * 64,
            reference_sha256="b" * 64,
        ),
    ),
    calibration=Calibration(temperature=0.7, ece_before=0.1, ece_after=0.05),
)
ROW = OffendingRow(
    row=3, kind="EXTREME", cells={"x": "inf"}, expected=(1.0,), actual=(float("-inf"),)
)
PARITY = ParityReport(
    row_count=9,
    offending_row_count=1,
    worst_difference=float("inf"),
    tolerance=1e-6,
    offending_rows=(ROW,),
    rows_by_kind={"EXTREME": 9},
)
MEASUREMENT = Measurement(size_bytes=9, latency_p50_ms=0.1, latency_p95_ms=0.2, rows_per_s=3.0)


class TestExportStore:
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[SqlExportStore]:
        database = await Database.open(database_url, migrations=MIGRATIONS, clock=SystemClock())
        yield SqlExportStore(database)
        await database.close()

    async def add(self, store: SqlExportStore, tenant: TenantName, export_id: str) -> Export:
        export = Export.queued(ExportName(tenant, export_id), SOURCE, NOW)
        await store.create(export, 1_000, from_export)
        return export

    async def finish(self, store: SqlExportStore, name: ExportName) -> Export:
        return await store.change(
            name,
            lambda e: e.succeeded(
                parity=PARITY,
                measurement=MEASUREMENT,
                artefact_sha256="c" * 64,
                manifest_sha256="d" * 64,
                now=NOW,
            ),
        )

    async def test_every_field_comes_back(self, store: SqlExportStore) -> None:
        export = await self.add(store, A, "one")
        assert await store.get(export.name) == export
        await store.claim(NOW)
        ended = await self.finish(store, export.name)
        assert ended.parity == PARITY
        assert await store.get(export.name) == ended
        assert from_export(ended).parity.offending_rows[0].cells == {"x": "inf"}

    async def test_problem_comes_back(self, store: SqlExportStore) -> None:
        export = await self.add(store, A, "one")
        await store.claim(NOW)
        problem = Problem(reason="R", message="what, which")
        failed = await store.change(export.name, lambda e: e.failed(problem, NOW))
        assert await store.get(export.name) == failed
        assert failed.problem == problem

    async def test_name_that_is_not_there_is_not_found(self, store: SqlExportStore) -> None:
        await self.add(store, A, "one")
        for name in (ExportName(A, "two"), ExportName(B, "one")):
            with pytest.raises(NotFound):
                await store.get(name)
            with pytest.raises(NotFound):
                await store.cancel(name, NOW, from_export)
            with pytest.raises(NotFound):
                await store.change(name, lambda e: e)

    async def test_tenants_take_turns_oldest_first(self, store: SqlExportStore) -> None:
        for export_id in ("1", "2", "3"):
            await self.add(store, A, export_id)
        await self.add(store, B, "1")
        claimed = [await store.claim(NOW) for _ in range(5)]
        names = [str(export.name) if export else "" for export in claimed]
        assert names == [
            "tenants/a/exports/1",
            "tenants/b/exports/1",
            "tenants/a/exports/2",
            "tenants/a/exports/3",
            "",
        ]
        assert {e.name for e in await store.running()} == {e.name for e in claimed if e}

    async def test_two_processes_never_claim_one_export(
        self, store: SqlExportStore, database_url: str
    ) -> None:
        for number in range(6):
            await self.add(store, A, f"{number}")
        database = await Database.open(database_url, migrations=MIGRATIONS, clock=SystemClock())
        both = (store, SqlExportStore(database))
        claimed = await asyncio.gather(*(both[i % 2].claim(NOW) for i in range(8)))
        await database.close()
        names = [each.name.export_id for each in claimed if each]
        assert sorted(names) == ["0", "1", "2", "3", "4", "5"]

    async def test_queue_of_one_tenant_is_bounded(self, store: SqlExportStore) -> None:
        for tenant in (A, B):
            export = Export.queued(ExportName(tenant, "1"), SOURCE, NOW)
            await store.create(export, 1, from_export)
            with pytest.raises(ResourceExhausted):
                await store.create(replace(export, name=ExportName(tenant, "2")), 1, from_export)
        await store.claim(NOW)
        await store.create(replace(export, name=ExportName(A, "3")), 1, from_export)

    async def test_step_that_raises_changes_nothing(self, store: SqlExportStore) -> None:
        export = await self.add(store, A, "one")
        with pytest.raises(FailedPrecondition):
            await self.finish(store, export.name)
        assert await store.get(export.name) == export

    async def test_pages_go_through_one_tenant_in_order(self, store: SqlExportStore) -> None:
        for number in range(5):
            await self.add(store, A, f"a{number}")
            await self.add(store, B, f"b{number}")
        first, place = await store.page(A, 3, 0)
        assert place is not None
        second, end = await store.page(A, 3, place)
        assert [e.name.export_id for e in first + second] == ["a0", "a1", "a2", "a3", "a4"]
        assert end is None
        assert await store.page(A, 5, 0) == (first + second, None)

    async def test_page_of_large_rows_ends_early(self, store: SqlExportStore) -> None:
        source = replace(SOURCE, classes=tuple(f"{'c' * 90}{i}" for i in range(9_000)))
        for number in range(6):
            export = Export.queued(ExportName(A, f"a{number}"), source, NOW)
            await store.create(export, 100, from_export)
        found: list[Export] = []
        place: int | None = 0
        pages = 0
        while place is not None:
            exports, place = await store.page(A, 1_000, place)
            assert sum(from_export(e).ByteSize() for e in exports) < 4 << 20
            found += exports
            pages += 1
        assert len(found) == 6
        assert pages > 1

    async def test_blobs_of_what_did_not_succeed_are_released_once(
        self, store: SqlExportStore
    ) -> None:
        cancelled = await self.add(store, A, "cancelled")
        await store.cancel(cancelled.name, NOW, from_export)
        succeeded = await self.add(store, A, "succeeded")
        await store.claim(NOW)
        await self.finish(store, succeeded.name)
        assert await store.releases() == [cancelled.name]
        await store.delete(succeeded.name, lambda _: from_export(succeeded))
        await store.delete(cancelled.name, lambda _: from_export(cancelled))
        assert set(await store.releases()) == {cancelled.name, succeeded.name}
        await store.released(cancelled.name)
        assert await store.releases() == [succeeded.name]

    async def test_export_that_goes_on_is_not_deleted(self, store: SqlExportStore) -> None:
        export = await self.add(store, A, "one")
        with pytest.raises(FailedPrecondition):
            await store.delete(export.name, lambda _: from_export(export))
        assert (await store.get(export.name)).state is ExportState.PENDING
        assert await store.releases() == []
