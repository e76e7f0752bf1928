"""Every malformed and hostile file of the shared data: the right reading, or a clear error."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpc.aio import AioRpcError

from allotment_api.dataset.v1 import dataset_pb2 as pb
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.dataset_service import DatasetClient, dataset_service

pytestmark = [pytest.mark.shared_data, pytest.mark.asyncio(loop_scope="module")]

COLUMNS = ["age", "city", "income", "target"]


@pytest.fixture(scope="module")
def nasty() -> Path:
    """The folder of files."""
    root = os.environ.get("ALLOTMENT_TEST_DATA")
    if not root:
        pytest.skip("ALLOTMENT_TEST_DATA names no folder with the shared test data")
    return Path(root) / "nasty"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DatasetClient]:
    """One service for all files: none of them may leave it in a bad way."""
    folder = tmp_path_factory.mktemp("service")
    async with dataset_service(folder, warm_children=2) as opened:
        yield opened


REFUSED = {
    "ragged_rows.csv": ("RAGGED_ROWS", "line 11 has 5, line 21 has 2"),
    "mixed_encodings.csv": ("MIXED_ENCODINGS", "line 31"),
    "empty.csv": ("EMPTY_FILE", "no content"),
    "header_only.csv": ("NO_ROWS", "no rows"),
    "duplicate_columns.csv": ("DUPLICATE_COLUMNS", "'age'"),
    "not_a_csv.csv": ("NOT_TEXT", "not text"),
    "path_traversal.zip": ("ARCHIVE", "zip archive"),
    "zip_bomb_600mb.zip": ("ARCHIVE", "zip archive"),
    "images_bad.zip": ("ARCHIVE", "zip archive"),
    "truncated.zip": ("ARCHIVE", "zip archive"),
}
READ = {
    "one_class_target.csv",
    "all_missing_column.csv",
    "bom.csv",
    "semicolon.csv",
    "quoted_newlines.csv",
    "cell_100k.csv",
    "target_missing_rows.csv",
    "crlf.csv",
}


@pytest.fixture(scope="module")
def names(nasty: Path) -> set[str]:
    return {path.name for path in nasty.iterdir()}


async def test_every_file_has_its_test(names: set[str]) -> None:
    assert names == REFUSED.keys() | READ


def _stored(folder: Path) -> set[Path]:
    """Blobs, working files, and what could be found outside of the service's folder."""
    outside = [p for p in (*Path("/tmp").iterdir(), *folder.parent.iterdir()) if "escape" in p.name]
    inside = [*(folder / "blobs/sha256").glob("*/*"), *(folder / "work/spool").iterdir()]
    return {*outside, *inside}


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_refused(client: DatasetClient, nasty: Path, name: str) -> None:
    before = _stored(client.folder)
    operation = await client.start_import((nasty / name).read_bytes(), "nasty")
    done = await client.ended(operation.name)
    reason, text = REFUSED[name]
    assert (done.state, done.problem.reason) == (pb.IMPORT_STATE_FAILED, reason)
    assert text in done.problem.message
    assert len(done.problem.message) < 400
    assert _stored(client.folder) == before


async def _read(client: DatasetClient, nasty: Path, name: str, **fields: Any) -> Any:
    return await client.imported((nasty / name).read_bytes(), **fields)


def _names(version: Any) -> list[str]:
    return [c.name for c in version.table.columns]


def _column(version: Any, name: str) -> Any:
    return next(c for c in version.table.columns if c.name == name)


@pytest.mark.parametrize("name", ["bom.csv", "crlf.csv", "semicolon.csv", "quoted_newlines.csv"])
async def test_read_like_any_other(client: DatasetClient, nasty: Path, name: str) -> None:
    version = await _read(client, nasty, name, target_hint="target")
    assert _names(version) == COLUMNS
    assert version.table.row_count == 60
    assert [c.label for c in (await client.inspect(version.name, "target")).classes] == [
        "no",
        "yes",
    ]


async def test_quoted_newlines_stay_in_their_cell(client: DatasetClient, nasty: Path) -> None:
    version = await _read(client, nasty, "quoted_newlines.csv")
    values = [v.value for v in _column(version, "city").statistics.top_values]
    assert 'New\nYork, "NY"' in values


async def test_an_empty_column_is_ignored(client: DatasetClient, nasty: Path) -> None:
    version = await _read(client, nasty, "all_missing_column.csv")
    assert _column(version, "nothing").ignored_because == "EMPTY"
    assert "EMPTY_COLUMN" in {w.reason for w in version.warnings}


async def test_one_class_is_an_error_of_the_target(client: DatasetClient, nasty: Path) -> None:
    version = await _read(client, nasty, "one_class_target.csv", target_hint="target")
    with pytest.raises(AioRpcError) as caught:
        await client.inspect(version.name, "target")
    error = from_rpc_error(caught.value)
    assert error.reason == "ONE_CLASS"
    assert "'yes'" in error.message


async def test_missing_targets_are_told(client: DatasetClient, nasty: Path) -> None:
    version = await _read(client, nasty, "target_missing_rows.csv", target_hint="target")
    found = await client.inspect(version.name, "target")
    assert found.labelled_row_count == 45
    assert "MISSING_TARGETS" in {w.reason for w in found.warnings}


async def test_a_huge_cell_is_a_cell_and_is_cut_when_shown(
    client: DatasetClient, nasty: Path
) -> None:
    version = await _read(client, nasty, "cell_100k.csv")
    statistics = _column(version, "city").statistics
    assert statistics.longest_cell == 100_000
    assert max(len(v.value) for v in statistics.top_values) <= 80


@pytest.mark.parametrize(
    ("folder", "name", "target", "classes"),
    [
        ("tabular", "titanic", "Survived", 2),
        ("tabular", "telco_churn", "Churn", 2),
        ("tabular", "covertype_20k", "Cover_Type", 7),
        ("tabular", "bike_sharing_hourly", "count", 0),
        ("tabular", "california_housing", "median_house_value", 0),
        ("clicks", "avazu_sample_499", "click", 2),
        ("clicks", "criteo_sample_193", "label", 2),
        ("text", "sms_spam", "label", 2),
    ],
)
async def test_real_sets(
    client: DatasetClient, nasty: Path, folder: str, name: str, target: str, classes: int
) -> None:
    content = (nasty.parent / folder / f"{name}.csv").read_bytes()
    version = await client.imported(content, name, target_hint=target)
    assert len((await client.inspect(version.name, target)).classes) == classes
    reasons = {(w.reason, w.column) for w in version.warnings}
    expected = {
        "titanic": {("UNIQUE_ID", "PassengerId")},
        "telco_churn": {("UNIQUE_ID", "customerID"), ("BLANK_IN_NUMBERS", "TotalCharges")},
        "avazu_sample_499": {("LARGE_INTEGERS", "id"), ("CONSTANT_COLUMN", "hour")},
        "sms_spam": {("DUPLICATE_ROWS", "")},
    }
    assert expected.get(name, set()) <= reasons
