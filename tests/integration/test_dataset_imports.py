"""Imports, datasets and versions through gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grpc.aio import AioRpcError

from allotment_api.common.v1 import table_pb2
from allotment_api.dataset.v1 import dataset_pb2 as pb
from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_core.errors import AllotmentError
from allotment_core.names import ImportName
from allotment_core.rpc.client import from_rpc_error
from allotment_dataset.adapters.sql_store import SqlStore
from allotment_dataset.build import MIGRATIONS
from allotment_testkit.dataset_service import (
    TENANT,
    DatasetClient,
    config_of,
    dataset_service,
    rid,
)

IRIS = b"length,kind\n" + b"1.5,setosa\n2.5,virginica\n" * 20
MORE = b"kind,length\nversicolor,3.5\n"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[DatasetClient]:
    async with dataset_service(tmp_path) as opened:
        yield opened


async def refused(call: Any) -> AllotmentError:
    with pytest.raises(AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def blob_name(sha256: str) -> str:
    return f"{TENANT}/blobs/{sha256}"


async def test_a_file_becomes_a_version(client: DatasetClient) -> None:
    version = await client.imported(IRIS, "iris", target_hint="kind")
    assert version.name == f"{TENANT}/datasets/iris/versions/1"
    assert version.table.row_count == 40
    assert [c.name for c in version.table.columns] == ["length", "kind"]
    assert version.reading.format == pb.FILE_FORMAT_DELIMITED
    content = await client.read_blob(blob_name(version.table.part_sha256[0]))
    assert len(content) == version.size_bytes
    table = pq.read_table(pa.BufferReader(content))
    assert table.column("kind").to_pylist()[:2] == ["setosa", "virginica"]
    assert table.schema.field("length").type == pa.float64()


async def test_watching_ends_with_the_import(client: DatasetClient) -> None:
    operation = await client.start_import(IRIS)
    states = []
    async for answer in client.datasets.WatchImport(
        pb.WatchImportRequest(name=operation.name), timeout=30
    ):
        states.append(answer.operation.state)
    assert states[-1] == pb.IMPORT_STATE_SUCCEEDED
    assert states == sorted(states)


async def test_the_answer_to_a_target_hint_is_ready(client: DatasetClient, tmp_path: Path) -> None:
    version = await client.imported(IRIS, "iris", target_hint="kind")
    for task in (0, table_pb2.TASK_TYPE_BINARY):
        found = await client.inspect(version.name, "kind", task)
        assert found.task == table_pb2.TASK_TYPE_BINARY
        assert [(c.label, c.count) for c in found.classes] == [("setosa", 20), ("virginica", 20)]
    latest = await client.inspect(f"{TENANT}/datasets/iris/versions/latest", "length")
    assert latest.labelled_row_count == 40
    assert [p.name for p in (tmp_path / "work/spool").iterdir()] == []


async def test_a_bad_target_is_an_error_with_the_closest_name(client: DatasetClient) -> None:
    version = await client.imported(IRIS, "iris")
    error = await refused(client.inspect(version.name, "Kind"))
    assert error.reason == "TARGET_NOT_FOUND"
    assert "'kind'" in error.message


async def test_failures_say_why_and_leave_nothing(client: DatasetClient, tmp_path: Path) -> None:
    operation = await client.start_import(b"a,b\n1\n", "bad")
    done = await client.ended(operation.name)
    assert done.state == pb.IMPORT_STATE_FAILED
    assert done.problem.reason == "RAGGED_ROWS"
    assert "line 2" in done.problem.message
    error = await refused(
        client.datasets.GetDataset(pb.GetDatasetRequest(name=f"{TENANT}/datasets/bad"))
    )
    assert error.reason == "NOT_FOUND"
    assert list((tmp_path / "blobs/sha256").glob("*/*")) == []
    assert list((tmp_path / "work/spool").iterdir()) == []


async def test_an_append_is_a_new_version_beside_the_old(client: DatasetClient) -> None:
    first = await client.imported(IRIS, "iris")
    second = await client.imported(MORE, "iris", append=True)
    assert second.name.endswith("/versions/2")
    assert second.table.row_count == 41
    assert list(second.table.part_sha256[:1]) == list(first.table.part_sha256)
    answer = await client.datasets.GetVersion(pb.GetVersionRequest(name=first.name))
    assert answer.version == first
    dataset = await client.datasets.GetDataset(pb.GetDatasetRequest(name=f"{TENANT}/datasets/iris"))
    assert dataset.dataset.latest_version == second.name
    assert dataset.dataset.version_count == 2


async def test_appends_at_once_take_turns(client: DatasetClient) -> None:
    await client.imported(IRIS, "iris")
    started = [await client.start_import(MORE, "iris", append=True) for _ in range(4)]
    ended = await asyncio.gather(*(client.ended(o.name) for o in started))
    assert {o.version.rpartition("/")[2] for o in ended} == {"2", "3", "4", "5"}
    last = await client.datasets.GetVersion(
        pb.GetVersionRequest(name=f"{TENANT}/datasets/iris/versions/latest")
    )
    assert last.version.table.row_count == 44


async def test_places_are_checked_at_once(client: DatasetClient) -> None:
    await client.imported(IRIS, "iris")
    error = await refused(client.start_import(IRIS, "iris"))
    assert error.reason == "DATASET_EXISTS"
    error = await refused(client.start_import(IRIS, "other", append=True))
    assert error.reason == "NOT_FOUND"
    error = await refused(client.start_import(IRIS, "../x"))
    assert error.reason == "INVALID_ID"


async def test_a_repeated_import_is_one_import(client: DatasetClient) -> None:
    request = pb.CreateImportRequest(
        request_id=rid(), parent=TENANT, upload=await client.upload(IRIS)
    )
    first = await client.datasets.CreateImport(request)
    again = await client.datasets.CreateImport(request)
    assert first == again
    await client.ended(first.operation.name)
    listed = await client.datasets.ListImports(pb.ListImportsRequest(parent=TENANT))
    assert len(listed.imports) == 1


async def test_unfinished_uploads_are_not_imported(client: DatasetClient) -> None:
    created = await client.datasets.CreateUpload(
        pb.CreateUploadRequest(request_id=rid(), parent=TENANT)
    )
    request = pb.CreateImportRequest(request_id=rid(), parent=TENANT, upload=created.upload.name)
    assert (await refused(client.datasets.CreateImport(request))).reason == "UPLOAD_INCOMPLETE"


async def test_lists_are_paged(client: DatasetClient) -> None:
    names = [f"d{i}" for i in range(5)]
    for name in names:
        await client.imported(IRIS, name)
    seen: list[str] = []
    token = ""
    while True:
        page = await client.datasets.ListDatasets(
            pb.ListDatasetsRequest(parent=TENANT, page_size=2, page_token=token)
        )
        seen += [d.name.rpartition("/")[2] for d in page.datasets]
        token = page.next_page_token
        if not token:
            break
    assert seen == names
    imports = await client.datasets.ListImports(pb.ListImportsRequest(parent=TENANT, page_size=3))
    assert [o.dataset.rpartition("/")[2] for o in imports.imports] == ["d4", "d3", "d2"]
    rest = await client.datasets.ListImports(
        pb.ListImportsRequest(parent=TENANT, page_token=imports.next_page_token)
    )
    assert [o.dataset.rpartition("/")[2] for o in rest.imports] == ["d1", "d0"]


async def test_deletion_of_versions_and_datasets(client: DatasetClient) -> None:
    first = await client.imported(IRIS, "iris")
    second = await client.imported(MORE, "iris", append=True)
    await client.datasets.DeleteVersion(pb.DeleteVersionRequest(request_id=rid(), name=second.name))
    latest = await client.datasets.GetVersion(
        pb.GetVersionRequest(name=f"{TENANT}/datasets/iris/versions/latest")
    )
    assert latest.version.name == first.name
    third = await client.imported(MORE, "iris", append=True)
    assert third.name.endswith("/versions/3")
    request = pb.DeleteDatasetRequest(
        request_id=rid(), name=f"{TENANT}/datasets/iris", etag="stale"
    )
    assert (await refused(client.datasets.DeleteDataset(request))).reason == "ETAG_MISMATCH"
    await client.datasets.DeleteDataset(
        pb.DeleteDatasetRequest(request_id=rid(), name=f"{TENANT}/datasets/iris")
    )
    for name in (first.name, third.name):
        error = await refused(client.datasets.GetVersion(pb.GetVersionRequest(name=name)))
        assert error.reason == "NOT_FOUND"
    error = await refused(client.read_blob(blob_name(first.table.part_sha256[0])))
    assert error.reason == "NOT_FOUND"


async def test_cancelling_kills_the_child(client: DatasetClient, tmp_path: Path) -> None:
    rows = b"1.5,some text that is long enough\n" * 2_000_000
    operation = await client.start_import(b"a,b\n" + rows, "big")
    async for answer in client.datasets.WatchImport(
        pb.WatchImportRequest(name=operation.name), timeout=30
    ):
        if answer.operation.state == pb.IMPORT_STATE_RUNNING:
            break
    cancelled = await client.datasets.CancelImport(
        pb.CancelImportRequest(request_id=rid(), name=operation.name)
    )
    assert cancelled.operation.state == pb.IMPORT_STATE_CANCELLED
    for _ in range(600):
        if not list((tmp_path / "work/spool").iterdir()):
            break
        await asyncio.sleep(0.05)
    assert list((tmp_path / "work/spool").iterdir()) == []
    again = pb.CancelImportRequest(request_id=rid(), name=operation.name)
    assert (await refused(client.datasets.CancelImport(again))).reason == "ILLEGAL_MOVE"
    assert (await client.imported(IRIS, "iris")).table.row_count == 40


async def test_a_running_import_is_done_again_after_a_restart(tmp_path: Path) -> None:
    async with dataset_service(tmp_path) as client:
        operation = await client.start_import(IRIS, "iris")
        await client.ended(operation.name)
        upload = await client.upload(IRIS)
        signer = client.served.signer
        request = pb.CreateImportRequest(
            request_id=rid(), parent=TENANT, upload=upload, dataset_id="late"
        )
        pending = (await client.datasets.CreateImport(request)).operation
    await _force_running(tmp_path, pending.name)
    async with dataset_service(tmp_path, signer=signer) as client:
        done = await client.ended(pending.name)
        assert done.state == pb.IMPORT_STATE_SUCCEEDED, done.problem
        assert done.version == f"{TENANT}/datasets/late/versions/1"


async def _force_running(folder: Path, name: str) -> None:
    """As a server that was killed in the middle leaves it."""
    clock = SystemClock()
    database = await Database.open(
        config_of(folder).database_url, migrations=MIGRATIONS, clock=clock
    )

    def work(records: Any) -> None:
        operation = records.import_(ImportName.parse(name))
        if operation.ended:
            pytest.skip("the import was quicker than the stop")
        if operation.state.value == "PENDING":
            records.put_import(operation.started(clock.now()))

    try:
        await SqlStore(database).write(work)
    finally:
        await database.close()


async def test_other_tenants_see_nothing(client: DatasetClient) -> None:
    version = await client.imported(IRIS, "iris")
    other = DatasetClient(client.served, "tenants/other")
    sha256 = version.table.part_sha256[0]
    calls = [
        other.datasets.GetVersion(pb.GetVersionRequest(name=version.name)),
        other.read_blob(blob_name(sha256)),
        other.read_blob(f"tenants/other/blobs/{sha256}"),
        other.inspect(version.name, "kind"),
    ]
    for call in calls:
        assert (await refused(call)).reason == "NOT_FOUND"
    upload = await client.upload(IRIS)
    request = pb.CreateImportRequest(request_id=rid(), parent="tenants/other", upload=upload)
    assert (await refused(other.datasets.CreateImport(request))).reason == "NOT_FOUND"
