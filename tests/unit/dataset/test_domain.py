"""Uploads, imports, datasets and owners as values; records as JSON."""

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment_core.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)
from allotment_core.names import DatasetName, ImportName, TenantName, UploadName, VersionName
from allotment_dataset.domain.datasets import Dataset, version_name, version_number
from allotment_dataset.domain.holds import parse_owner
from allotment_dataset.domain.importing import check_place
from allotment_dataset.domain.imports import MOVES, Import, ImportRequest, ImportState
from allotment_dataset.domain.table import (
    Column,
    ColumnRole,
    ColumnStatistics,
    ColumnType,
    FileFormat,
    Notice,
    Part,
    Reading,
    Spelling,
    TableContent,
    ValueCount,
)
from allotment_dataset.domain.table_json import from_json, to_json
from allotment_dataset.domain.uploads import (
    CHUNK_BYTES,
    LIFETIME,
    Chunk,
    Upload,
    check_announcement,
    check_chunk,
    ends_here,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TENANT = TenantName("acme")
DATASET = DatasetName(TENANT, "iris")
LIMIT = 1 << 40
PROTO = Path(__file__).parents[3] / "protos/allotment_api/dataset/v1/dataset.proto"


def upload(received_bytes: int = 0, announced_bytes: int = 0) -> Upload:
    return Upload(
        name=UploadName(TENANT, "u"),
        received_bytes=received_bytes,
        announced_bytes=announced_bytes,
        create_time=NOW,
        expire_time=NOW + LIFETIME,
    )


def operation(*, append: bool = False) -> Import:
    request = ImportRequest(upload=UploadName(TENANT, "u"), dataset=DATASET, append=append)
    return Import(name=ImportName(TENANT, "i"), request=request, create_time=NOW, update_time=NOW)


class TestUploads:
    def test_a_gap_names_the_size_to_go_on_from(self) -> None:
        with pytest.raises(OutOfRange) as caught:
            check_chunk(upload(), Chunk(offset=11, data=b"x"), 10, limit_bytes=LIMIT)
        assert caught.value.metadata["received_bytes"] == "10"

    def test_chunks_within_what_is_there_are_fine(self) -> None:
        check_chunk(upload(), Chunk(offset=0, data=b"abc"), 10, limit_bytes=LIMIT)
        check_chunk(upload(), Chunk(offset=10, data=b"abc"), 10, limit_bytes=LIMIT)

    def test_chunks_are_bounded(self) -> None:
        chunk = Chunk(offset=0, data=bytes(CHUNK_BYTES + 1))
        with pytest.raises(InvalidArgument, match=str(CHUNK_BYTES)):
            check_chunk(upload(), chunk, 0, limit_bytes=LIMIT)

    def test_the_announced_size_is_kept_to(self) -> None:
        for chunk in (Chunk(offset=0, data=b"abcd"), Chunk(offset=0, data=b"ab", last=True)):
            with pytest.raises(InvalidArgument) as caught:
                check_chunk(upload(announced_bytes=3), chunk, 0, limit_bytes=LIMIT)
            assert caught.value.reason == "SIZE_MISMATCH"

    def test_an_upload_ends_at_its_size_or_with_the_last_chunk(self) -> None:
        assert ends_here(upload(announced_bytes=3), Chunk(offset=0, data=b"abc"), 3)
        assert ends_here(upload(), Chunk(offset=0, data=b"", last=True), 0)
        assert not ends_here(upload(), Chunk(offset=0, data=b"abc"), 3)

    def test_sizes_are_limited_when_announced_and_when_sent(self) -> None:
        with pytest.raises(ResourceExhausted):
            check_announcement(11, limit_bytes=10)
        with pytest.raises(ResourceExhausted):
            check_chunk(upload(), Chunk(offset=9, data=b"ab"), 9, limit_bytes=10)
        with pytest.raises(InvalidArgument):
            check_announcement(-1, limit_bytes=10)

    def test_every_write_puts_the_expiry_off(self) -> None:
        later = NOW + timedelta(hours=5)
        assert upload().with_received(5, later).expire_time == later + LIFETIME


class TestImports:
    def test_the_moves_are_those_of_the_proto(self) -> None:
        text = re.search(r"// Moves: (.*)\nenum ImportState", PROTO.read_text())
        assert text is not None
        said = {}
        for clause in text.group(1).rstrip(".").split(". "):
            state, following = clause.split(" -> ")
            said[ImportState(state)] = frozenset(ImportState(s) for s in following.split(", "))
        assert {state: moves for state, moves in MOVES.table.items() if moves} == said

    def test_the_way_of_an_import(self) -> None:
        started = operation().started(NOW)
        assert (started.state, started.attempts) == (ImportState.RUNNING, 1)
        again = started.put_back(NOW).started(NOW)
        assert again.attempts == 2
        done = again.succeeded(version_name(DATASET, 1), NOW)
        assert (done.ended, done.progress, done.stage) == (True, 1.0, "DONE")

    def test_what_has_ended_stays_so(self) -> None:
        cancelled = operation().cancelled(NOW)
        for move in (cancelled.cancelled, cancelled.started, cancelled.put_back):
            with pytest.raises(FailedPrecondition):
                move(NOW)

    def test_a_dataset_is_new_or_appended_to(self) -> None:
        there = Dataset(name=DATASET, create_time=NOW, update_time=NOW)
        check_place(None, operation().request)
        check_place(there, operation(append=True).request)
        with pytest.raises(AlreadyExists):
            check_place(there, operation().request)
        with pytest.raises(NotFound):
            check_place(None, operation(append=True).request)


class TestDatasets:
    def test_numbers_are_never_given_twice(self) -> None:
        dataset = Dataset(name=DATASET, create_time=NOW, update_time=NOW).with_version(NOW)
        dataset = dataset.with_version(NOW).without_version(1, NOW).with_version(NOW)
        assert (dataset.latest_number, dataset.version_count) == (3, 2)

    def test_every_change_is_another_etag(self) -> None:
        empty = Dataset(name=DATASET, create_time=NOW, update_time=NOW)
        assert empty.etag != empty.with_version(NOW).etag

    @pytest.mark.parametrize("version_id", ["0x1", "01", "latest", "1.0", "9999999999", "a"])
    def test_names_that_no_version_has_are_not_found(self, version_id: str) -> None:
        with pytest.raises(NotFound):
            version_number(VersionName(DATASET, version_id))


class TestOwners:
    @pytest.mark.parametrize(
        "owner",
        [
            "tenants/acme/experiments/e1",
            "tenants/acme/experiments/e1/trials/7",
            "tenants/acme/exports/x",
        ],
    )
    def test_resources_of_other_services_may_own(self, owner: str) -> None:
        assert parse_owner(owner) == (TENANT, owner)

    @pytest.mark.parametrize(
        "owner",
        [
            "",
            "tenants/acme",
            "tenants/acme/experiments",
            "tenants/-/experiments/e",
            "tenants/acme/experiments/e/../../b",
            "tenants/acme/datasets/d/versions/1",
            "tenants/acme/imports/i",
            "pools/p/a/b",
            "tenants/acme/experiments/%",
            "tenants/acme/" + "a/b/" * 100 + "c",
        ],
    )
    def test_nothing_else_may(self, owner: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            parse_owner(owner)
        assert caught.value.reason == "INVALID_OWNER"
        assert len(caught.value.message) < 400


texts = st.text(max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
statistics = st.builds(
    ColumnStatistics,
    missing_count=st.integers(0),
    distinct_count=st.integers(0),
    longest_cell=st.integers(0),
    minimum=st.none() | finite,
    top_values=st.lists(st.builds(ValueCount, value=texts, count=st.integers(0))).map(tuple),
)
columns = st.builds(
    Column,
    name=texts,
    type=st.sampled_from(ColumnType),
    role=st.sampled_from(ColumnRole),
    statistics=statistics,
    spellings=st.lists(st.builds(Spelling, value=finite, text=texts)).map(tuple),
)
contents = st.builds(
    TableContent,
    columns=st.lists(columns, max_size=3).map(tuple),
    parts=st.lists(st.builds(Part, sha256=texts, size_bytes=st.integers(0))).map(tuple),
    row_count=st.integers(0),
    duplicate_row_count=st.integers(0),
    reading=st.builds(
        Reading,
        format=st.sampled_from(FileFormat),
        missing_markers=st.lists(texts).map(tuple),
    ),
    source_sha256=texts,
    warnings=st.lists(st.builds(Notice, reason=texts, message=texts)).map(tuple),
)


class TestJson:
    @given(contents)
    def test_what_is_written_is_read(self, content: TableContent) -> None:
        assert from_json(TableContent, to_json(content)) == content

    def test_rows_of_other_releases_are_read(self) -> None:
        assert from_json(Reading, '{"format":"JSONL","new":1}') == Reading(format=FileFormat.JSONL)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":"X"}', '{"format":"JSONL"'])
    def test_damaged_rows_are_data_loss(self, text: str) -> None:
        with pytest.raises(DataLoss):
            from_json(Reading, text)

    def test_nothing_that_is_no_json_is_written(self) -> None:
        with pytest.raises(ValueError, match="JSON"):
            to_json(Spelling(value=math.nan, text="x"))
