"""What is read out of delimited text: dialects, encodings, types, roles, warnings."""

import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from allotment_core.errors import InvalidArgument
from allotment_dataset.domain.parsing import ImportJob, ImportOutcome
from allotment_dataset.domain.table import (
    Column,
    ColumnOverride,
    ColumnRole,
    ColumnType,
    FileFormat,
)
from allotment_dataset.parse.job import run_import

Read = Callable[..., ImportOutcome]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Imports bytes; each call into a folder of its own."""
    count = 0

    def run(content: bytes | str, **fields: Any) -> ImportOutcome:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        source = folder / "source"
        source.write_bytes(content.encode() if isinstance(content, str) else content)
        job = ImportJob(source=str(source), source_sha256="s", out_dir=str(folder), **fields)
        return run_import(job, lambda *_: None)

    return run


def column(outcome: ImportOutcome, name: str) -> Column:
    return next(c for c in outcome.content.columns if c.name == name)


def cells(outcome: ImportOutcome, name: str) -> list[Any]:
    """Stored cells; None for NaN."""
    values = pq.read_table(outcome.part_path).column(name).to_pylist()
    return [None if v != v else v for v in values]


def reasons(outcome: ImportOutcome, name: str = "") -> set[str]:
    return {w.reason for w in outcome.content.warnings if not name or w.column == name}


def refusal(read: Read, content: bytes | str, **fields: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        read(content, **fields)
    return caught.value


def rows(values: Sequence[object], name: str = "x") -> str:
    """A table with the values and a second column that keeps rows apart."""
    lines = [f"{v},{'pq'[i % 2]}" for i, v in enumerate(values)]
    return "\n".join([f"{name},other", *lines]) + "\n"


class TestDialect:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_the_delimiter_is_found(self, read: Read, delimiter: str) -> None:
        text = "a,b,c\n1,x y,2\n3,z,4\n".replace(",", delimiter)
        outcome = read(text)
        assert outcome.content.reading.delimiter == delimiter
        assert [c.name for c in outcome.content.columns] == ["a", "b", "c"]

    def test_delimiters_within_cells_do_not_mislead(self, read: Read) -> None:
        outcome = read("a;b\n1,5;x,y,z\n2,5;u,v,w\n")
        assert outcome.content.reading.delimiter == ";"
        assert cells(outcome, "b") == ["x,y,z", "u,v,w"]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_line_ends_are_no_part_of_cells(self, read: Read, end: str) -> None:
        outcome = read(end.join(["a,b", "1,x", "2,y"]) + end)
        assert cells(outcome, "b") == ["x", "y"]

    def test_quotes_keep_newlines_and_delimiters(self, read: Read) -> None:
        outcome = read('a,b\n1,"two\nlines, ""quoted"""\n2,y\n')
        assert cells(outcome, "b") == ['two\nlines, "quoted"', "y"]

    def test_the_last_line_needs_no_end(self, read: Read) -> None:
        assert cells(read("a,b\n1,x\n2,y"), "b") == ["x", "y"]

    def test_one_column_is_a_table(self, read: Read) -> None:
        assert cells(read("value\n1\n2\n"), "value") == [1.0, 2.0]

    def test_names_are_trimmed_and_empty_ones_numbered(self, read: Read) -> None:
        outcome = read("\ufeff, age ,b\n0,1,x\n1,2,y\n")
        assert [c.name for c in outcome.content.columns] == ["column_1", "age", "b"]
        assert "UNNAMED_COLUMN" in reasons(outcome)

    def test_a_dot_in_a_name_is_a_dot(self, read: Read) -> None:
        outcome = read("a.b,a\n1,x\n2,y\n" * 1, target_hint="a")
        assert cells(outcome, "a.b") == [1.0, 2.0]

    def test_numbers_in_the_header_are_warned_about(self, read: Read) -> None:
        assert "NUMERIC_HEADER" in reasons(read("1,2\n3,4\n5,6\n"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "EMPTY_FILE"),
            (b"\xef\xbb\xbf\n\n", "EMPTY_FILE"),
            (b"a,b\n", "NO_ROWS"),
            (b"a,b,a\n1,2,3\n", "DUPLICATE_COLUMNS"),
            (b"a,b\n1,2\n3\n", "RAGGED_ROWS"),
            (b"a,b\n1,2\n3,4,5\n", "RAGGED_ROWS"),
            (b"PK\x03\x04rest", "ARCHIVE"),
            (b"\x1f\x8b\x08rest", "ARCHIVE"),
            (b"\x89PNG\r\n\x1a\n", "NOT_A_TABLE"),
            (b"a,b\n1,\x00\n", "NOT_TEXT"),
            (b"[\n{}]", "NOT_A_TABLE"),
            (b"PAR1 and then nonsense PAR1", "DAMAGED_FILE"),
            (b"ARROW1 and then nonsense", "DAMAGED_FILE"),
            (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "DAMAGED_FILE"),
            ("a,b\n1,ü\n".encode() + "2,ü\n".encode("latin-1"), "MIXED_ENCODINGS"),
            (b"\xff\xfea", "BAD_ENCODING"),
            (b"x" * 300 + b",b\n1,2\n", "NAME_TOO_LONG"),
            (b",".join(b"c%d" % i for i in range(5000)) + b"\n1\n", "TOO_MANY_COLUMNS"),
        ],
    )
    def test_what_is_no_table_is_refused_with_a_reason(
        self, read: Read, content: bytes, reason: str
    ) -> None:
        error = refusal(read, content)
        assert error.reason == reason
        assert "Traceback" not in error.message

    def test_ragged_rows_are_named_by_line(self, read: Read) -> None:
        error = refusal(read, 'a,b\n1,"x\ny"\n2\n3,z\n4,5,6\n')
        assert "line 4 has 1" in error.message
        assert "line 6 has 3" in error.message

    def test_an_unclosed_quote_is_named(self, read: Read) -> None:
        error = refusal(read, 'a,b\n1,"x\n2,y\n3,z\n')
        assert error.reason == "UNCLOSED_QUOTE"
        assert "'x" in error.message

    def test_a_closed_quote_at_the_end_is_fine(self, read: Read) -> None:
        assert cells(read('a,b\n1,"x\ny"\n'), "b") == ["x\ny"]

    def test_a_cell_without_end_is_refused(self, read: Read) -> None:
        error = refusal(read, 'a,b\n1,"' + "x" * 9_000_000 + '"\n')
        assert error.reason in ("CELL_TOO_LONG", "ROW_TOO_LONG")
        assert "quote" in error.message

    def test_mixed_encodings_name_both_lines(self, read: Read) -> None:
        error = refusal(read, "a,b\n1,ü\n".encode() + "2,ü\n".encode("latin-1"))
        assert "line 2" in error.message
        assert "line 3" in error.message

    def test_random_bytes_are_refused_not_guessed(self, read: Read) -> None:
        content = np.random.default_rng(5).bytes(4096)
        assert refusal(read, content).reason in ("NOT_TEXT", "MIXED_ENCODINGS")


class TestEncoding:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
    def test_marked_encodings_are_read(self, read: Read, encoding: str) -> None:
        text = "größe,stadt\n1,Zürich\n2,Łódź\n"
        mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
        outcome = read(mark + text.encode(encoding))
        assert cells(outcome, "stadt") == ["Zürich", "Łódź"]
        assert cells(outcome, "größe") == [1.0, 2.0]
        assert "ENCODING" not in reasons(outcome)

    def test_single_byte_text_is_windows_1252_with_a_warning(self, read: Read) -> None:
        outcome = read("a,b\n1,Zürich\n2,10 €\n".encode("cp1252"))
        assert cells(outcome, "b") == ["Zürich", "10 €"]
        assert outcome.content.reading.encoding == "cp1252"
        assert "ENCODING" in reasons(outcome)

    def test_bytes_that_windows_1252_lacks_make_it_latin_1(self, read: Read) -> None:
        outcome = read(b"a,b\n1,\x81\xfc\n2,x\n")
        assert outcome.content.reading.encoding == "latin-1"


class TestNumbers:
    def test_blanks_are_missing_and_told(self, read: Read) -> None:
        outcome = read(rows([1, " ", 3, ""]))
        assert cells(outcome, "x") == [1.0, None, 3.0, None]
        assert column(outcome, "x").type is ColumnType.NUMERIC
        assert "BLANK_IN_NUMBERS" in reasons(outcome, "x")

    @pytest.mark.parametrize("marker", ["NA", "N/A", "null", "NaN", "?", "#N/A"])
    def test_strong_markers_are_missing_among_numbers(self, read: Read, marker: str) -> None:
        outcome = read(rows([1, marker, 2, 3]))
        assert cells(outcome, "x") == [1.0, None, 2.0, 3.0]
        assert outcome.content.reading.missing_markers == (marker,)
        assert "MISSING_MARKERS" in reasons(outcome, "x")

    @pytest.mark.parametrize("marker", ["NA", "none", "NaN", "null", "?"])
    def test_markers_stay_values_among_words(self, read: Read, marker: str) -> None:
        outcome = read(rows(["red", marker, "blue", "red"]))
        assert cells(outcome, "x") == ["red", marker, "blue", "red"]
        assert column(outcome, "x").statistics.missing_count == 0

    def test_a_word_among_few_codes_is_a_category(self, read: Read) -> None:
        outcome = read(rows([0, 1, "none", 2] * 10))
        assert column(outcome, "x").type is ColumnType.CATEGORICAL
        assert cells(outcome, "x")[2] == "none"

    def test_a_word_among_many_numbers_is_missing(self, read: Read) -> None:
        outcome = read(rows([*range(30), "none"]))
        assert column(outcome, "x").type is ColumnType.NUMERIC
        assert cells(outcome, "x")[-1] is None

    def test_no_class_of_a_target_is_lost_to_a_marker(self, read: Read) -> None:
        outcome = read(rows([0, 1, "NA", 1] * 10), target_hint="x")
        assert outcome.inspection is not None
        assert [c.value for c in outcome.inspection.classes] == ["0", "1", "NA"]

    def test_decimal_commas_are_found(self, read: Read) -> None:
        outcome = read("a;b\n1,5;x\n-2,25e1;y\n3;z\n")
        assert outcome.content.reading.decimal == ","
        assert cells(outcome, "a") == [1.5, -22.5, 3.0]

    def test_commas_that_may_be_thousands_are_left_alone(self, read: Read) -> None:
        outcome = read("a;b\n1,234;x\n5,678;y\n1,000;z\n")
        assert column(outcome, "a").type is ColumnType.CATEGORICAL
        assert "COMMAS_IN_NUMBERS" in reasons(outcome, "a")

    def test_signs_exponents_and_infinities_are_numbers(self, read: Read) -> None:
        outcome = read(rows(["+1.5", "-2e3", ".5", "3.", "inf", "-Infinity", " 7 "]))
        assert cells(outcome, "x") == [1.5, -2000.0, 0.5, 3.0, float("inf"), -float("inf"), 7.0]
        assert column(outcome, "x").statistics.maximum == 7.0

    @pytest.mark.parametrize("text", ["1e999", "0x1F", "1_000", "1 000", "٣", "1d", "--1"])
    def test_what_only_looks_like_a_number_is_a_string(self, read: Read, text: str) -> None:
        outcome = read(rows([1, 2, text, 3]))
        assert column(outcome, "x").type is ColumnType.CATEGORICAL
        assert cells(outcome, "x")[2] == text

    def test_integers_beyond_float64_stay_exact(self, read: Read) -> None:
        outcome = read(rows([10**18 + 1, 10**18 + 1, 10**18 + 2, 5]))
        assert cells(outcome, "x")[0] == str(10**18 + 1)
        assert "LARGE_INTEGERS" in reasons(outcome, "x")

    def test_spellings_other_than_the_shortest_are_kept(self, read: Read) -> None:
        outcome = read(rows(["1.0", "007", "1", "2.50", "3"]))
        spelt = {s.value: s.text for s in column(outcome, "x").spellings}
        assert spelt == {1.0: "1.0", 7.0: "007", 2.5: "2.50"}

    def test_a_wanted_number_column_names_the_cells_that_are_none(self, read: Read) -> None:
        override = ColumnOverride(column="x", type=ColumnType.NUMERIC)
        error = refusal(read, rows([1, "abc", 2]), overrides=(override,))
        assert error.reason == "NOT_NUMBERS"
        assert "'abc'" in error.message

    def test_a_wanted_category_keeps_digits_as_they_are(self, read: Read) -> None:
        override = ColumnOverride(column="x", type=ColumnType.CATEGORICAL)
        assert cells(read(rows(["007", "1.0"]), overrides=(override,)), "x") == ["007", "1.0"]


class TestDates:
    @pytest.mark.parametrize(
        ("values", "date_format"),
        [
            (["2026-01-02", "2026-12-31"], "%Y-%m-%d"),
            (["2026-01-02 03:04:05"], "%Y-%m-%d %H:%M:%S"),
            (["2026-01-02 03:04"], "%Y-%m-%d %H:%M"),
            (["2026-01-02T03:04:05"], "%Y-%m-%dT%H:%M:%S"),
            (["2026-01-02T03:04:05Z"], "%Y-%m-%dT%H:%M:%SZ"),
            (["2026-01-02 03:04:05.123"], "%Y-%m-%d %H:%M:%S.%f"),
            (["31/12/2026", "01/02/2026"], "%d/%m/%Y"),
            (["12/31/2026", "1/2/2026"], "%m/%d/%Y"),
            (["31.12.2026"], "%d.%m.%Y"),
            (["2026/12/31"], "%Y/%m/%d"),
            (["1949-01", "1949-12"], "%Y-%m"),
        ],
    )
    def test_patterns_are_found(self, read: Read, values: list[str], date_format: str) -> None:
        outcome = read(rows([*values, values[0]]))
        found = column(outcome, "x")
        assert (found.type, found.date_format) == (ColumnType.DATE, date_format)
        assert cells(outcome, "x")[0] == values[0]

    @pytest.mark.parametrize("odd", ["2026-02-30", "2026-13-01", "soon", "2026-01-02 10:00"])
    def test_one_cell_that_is_no_such_day_makes_them_strings(self, read: Read, odd: str) -> None:
        outcome = read(rows(["2026-01-02", odd, "2026-01-03"]))
        assert column(outcome, "x").type is ColumnType.CATEGORICAL

    def test_markers_among_dates_are_missing(self, read: Read) -> None:
        outcome = read(rows(["NA", "2026-01-02", "", "2026-01-03"]))
        assert cells(outcome, "x") == ["", "2026-01-02", "", "2026-01-03"]
        assert column(outcome, "x").type is ColumnType.DATE

    def test_ambiguous_days_are_told(self, read: Read) -> None:
        outcome = read(rows(["01/02/2026", "03/04/2026"]))
        assert column(outcome, "x").date_format == "%m/%d/%Y"
        assert "AMBIGUOUS_DATES" in reasons(outcome, "x")

    def test_wanted_dates_that_are_none_are_refused(self, read: Read) -> None:
        override = ColumnOverride(column="x", type=ColumnType.DATE)
        assert refusal(read, rows(["a", "b"]), overrides=(override,)).reason == "NOT_DATES"


class TestRoles:
    def test_identifiers_are_ignored(self, read: Read) -> None:
        text = "customer_id,code,x\n" + "".join(f"{i},C{i:04},{i % 3}\n" for i in range(40))
        outcome = read(text)
        for name in ("customer_id", "code"):
            assert column(outcome, name).type is ColumnType.ID
            assert column(outcome, name).ignored_because == "UNIQUE_ID"
            assert "UNIQUE_ID" in reasons(outcome, name)
        assert cells(outcome, "customer_id")[:2] == ["0", "1"]

    def test_unique_numbers_with_another_name_are_features(self, read: Read) -> None:
        outcome = read(rows(range(40), "price"))
        assert column(outcome, "price").role is ColumnRole.FEATURE

    def test_constant_and_empty_columns_are_ignored(self, read: Read) -> None:
        outcome = read("a,b,c\n" + "".join(f"1,,{i}\n" for i in range(5)))
        assert column(outcome, "a").ignored_because == "CONSTANT"
        assert column(outcome, "b").ignored_because == "EMPTY"
        assert {"CONSTANT_COLUMN", "EMPTY_COLUMN"} <= reasons(outcome)

    def test_prose_is_text(self, read: Read) -> None:
        text = rows([f"this is sentence number {i} of many" for i in range(30)])
        found = column(read(text), "x")
        assert (found.type, found.role) == (ColumnType.TEXT, ColumnRole.FEATURE)

    def test_a_target_is_never_ignored(self, read: Read) -> None:
        text = "id,y\n" + "".join(f"{i},same\n" for i in range(30))
        for target in ("id", "y"):
            found = column(read(text, target_hint=target), target)
            assert (found.role, found.ignored_because) == (ColumnRole.FEATURE, "")

    def test_what_the_caller_knows_wins(self, read: Read) -> None:
        text = "id,w,g,t,k\n" + "".join(f"{i},0.5,{i % 4},2026-01-{i:02},1\n" for i in range(1, 25))
        wanted = {
            "id": ColumnRole.FEATURE,
            "w": ColumnRole.WEIGHT,
            "g": ColumnRole.GROUP,
            "t": ColumnRole.TIME,
            "k": ColumnRole.IGNORED,
        }
        overrides = tuple(ColumnOverride(column=n, role=r) for n, r in wanted.items())
        outcome = read(text, overrides=overrides)
        assert {c.name: c.role for c in outcome.content.columns} == wanted
        assert column(outcome, "id").type is ColumnType.NUMERIC
        assert column(outcome, "k").ignored_because == "BY_REQUEST"

    @pytest.mark.parametrize(
        ("values", "role", "reason"),
        [
            ([1, -1], ColumnRole.WEIGHT, "BAD_WEIGHT"),
            (["a", "b"], ColumnRole.WEIGHT, "BAD_WEIGHT"),
            (["a", "b"], ColumnRole.TIME, "BAD_TIME"),
            ([1, ""], ColumnRole.TIME, "ROLE_NEEDS_VALUES"),
            (["a", ""], ColumnRole.GROUP, "ROLE_NEEDS_VALUES"),
        ],
    )
    def test_roles_that_do_not_fit_are_refused(
        self, read: Read, values: list[object], role: ColumnRole, reason: str
    ) -> None:
        override = ColumnOverride(column="x", role=role)
        assert refusal(read, rows(values), overrides=(override,)).reason == reason

    def test_a_column_that_is_not_there_is_guessed(self, read: Read) -> None:
        error = refusal(read, rows([1, 2], "income"), target_hint="Incom")
        assert error.reason == "TARGET_NOT_FOUND"
        assert "did you mean 'income'" in error.message


class TestProfile:
    def test_statistics_are_of_the_present_values(self, read: Read) -> None:
        statistics = column(read(rows([1, 2, 2, "", 5])), "x").statistics
        assert (statistics.missing_count, statistics.distinct_count) == (1, 3)
        assert (statistics.minimum, statistics.maximum, statistics.mean) == (1.0, 5.0, 2.5)
        assert statistics.standard_deviation == pytest.approx(np.std([1, 2, 2, 5]))
        assert [(v.value, v.count) for v in statistics.top_values] == [("2", 2), ("1", 1), ("5", 1)]

    def test_duplicate_rows_are_counted(self, read: Read) -> None:
        outcome = read("a,b\n1,x\n1,x\n1,y\n1.0,x\n,x\n,x\n")
        assert outcome.content.duplicate_row_count == 3
        assert "DUPLICATE_ROWS" in reasons(outcome)

    def test_many_values_are_told(self, read: Read) -> None:
        values = [f"v{i // 2 if i < 20 else i}" for i in range(120)]
        assert "HIGH_CARDINALITY" in reasons(read(rows(values)), "x")

    def test_the_same_bytes_give_the_same_part(self, read: Read) -> None:
        text = rows([f"v{i % 7}" for i in range(500)])
        assert read(text).content == read(text).content


class TestOtherFormats:
    def test_json_lines(self, read: Read) -> None:
        lines = [
            {"a": 1, "b": "x", "c": True},
            {"b": "none", "a": None, "c": False},
            {"a": 2.5, "b": "ü", "d": "late"},
        ]
        outcome = read("\n".join(json.dumps(line) for line in lines))
        assert outcome.content.reading.format is FileFormat.JSONL
        assert cells(outcome, "a") == [1.0, None, 2.5]
        assert cells(outcome, "b") == ["x", "none", "ü"]
        assert cells(outcome, "c") == ["true", "false", ""]
        assert cells(outcome, "d") == ["", "", "late"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('{"a": 1}\n{"a": [1]}\n', "NESTED_COLUMN"),
            ('{"a": 1}\n{"a": {"b": 1}}\n', "NESTED_COLUMN"),
            ('{"a": 1}\n{"a": \n', "BAD_JSON"),
            ('{"a": 1}\n5\n', "BAD_JSON"),
            ('{"a": 1}\n' + "[" * 100_000 + "\n", "BAD_JSON"),
        ],
    )
    def test_lines_that_are_no_plain_objects_are_refused(
        self, read: Read, text: str, reason: str
    ) -> None:
        error = refusal(read, text)
        assert error.reason == reason
        assert "line 2" in error.message

    @pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
    def test_typed_tables(self, read: Read, kind: str) -> None:
        outcome = read(_encoded(_typed_table(), kind))
        assert cells(outcome, "integer") == [1.0, None, 3.0]
        assert cells(outcome, "large") == [str(2**60 + 1), "", "3"]
        assert cells(outcome, "float") == [0.5, None, None]
        assert cells(outcome, "decimal") == [1.25, None, 3.5]
        assert cells(outcome, "flag") == ["true", "", "false"]
        assert cells(outcome, "word") == ["x", "", "y"]
        assert cells(outcome, "coded") == ["u", "", "v"]
        assert cells(outcome, "day") == ["2026-01-02", "", "2026-03-04"]
        assert cells(outcome, "instant") == ["2026-01-02 03:04:05", "", "1969-12-31 23:59:59"]
        assert column(outcome, "day").date_format == "%Y-%m-%d"
        assert column(outcome, "instant").date_format == "%Y-%m-%d %H:%M:%S"
        assert column(outcome, "nothing").ignored_because == "EMPTY"
        assert "LARGE_INTEGERS" in reasons(outcome, "large")

    @pytest.mark.parametrize("value", [[1, 2], {"a": 1}, b"bytes"])
    def test_nested_and_binary_columns_are_refused(self, read: Read, value: object) -> None:
        table = pa.table({"ok": [1, 2], "bad": [value, value]})
        error = refusal(read, _encoded(table, "parquet"))
        assert error.reason == "NESTED_COLUMN"
        assert "'bad'" in error.message

    @pytest.mark.parametrize("kind", ["parquet", "stream"])
    def test_tables_without_rows_are_refused(self, read: Read, kind: str) -> None:
        assert refusal(read, _encoded(_typed_table().slice(0, 0), kind)).reason == "NO_ROWS"

    @pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
    def test_cut_files_are_refused(self, read: Read, kind: str) -> None:
        content = _encoded(_typed_table(), kind)
        assert refusal(read, content[: len(content) * 2 // 3]).reason in ("DAMAGED_FILE", "NO_ROWS")

    def test_a_wanted_format_that_the_bytes_are_not_is_refused(self, read: Read) -> None:
        assert refusal(read, "a,b\n1,2\n", format=FileFormat.PARQUET).reason == "WRONG_FORMAT"


class TestAppend:
    def _appended(self, read: Read, first: str, second: str, **fields: Any) -> ImportOutcome:
        base = read(first, **fields)
        return read(second, base=base.content, base_paths=(base.part_path,))

    def test_rows_come_after_those_before_and_statistics_are_of_all(self, read: Read) -> None:
        both = self._appended(read, "a,b\n1,x\n2,y\n", "b,a\ny,3\nz,4\n")
        assert len(both.content.parts) == 2
        assert both.content.row_count == 4
        assert [c.name for c in both.content.columns] == ["a", "b"]
        assert column(both, "a").statistics.maximum == 4.0
        assert column(both, "b").statistics.distinct_count == 3
        assert pq.read_schema(both.part_path).names == ["a", "b"]

    def test_duplicates_across_parts_are_counted(self, read: Read) -> None:
        both = self._appended(read, "a,b\n1,x\n2,y\n", "a,b\n1,x\n3,y\n")
        assert both.content.duplicate_row_count == 1

    def test_roles_that_were_asked_for_go_on(self, read: Read) -> None:
        overrides = (ColumnOverride(column="a", role=ColumnRole.WEIGHT),)
        both = self._appended(read, "a,b\n1,x\n2,y\n", "a,b\n3,y\n", overrides=overrides)
        assert column(both, "a").role is ColumnRole.WEIGHT

    def test_first_spellings_stay(self, read: Read) -> None:
        both = self._appended(read, "a,b\n1,x\n2.0,y\n", "a,b\n1.0,x\n2,y\n3.0,y\n")
        assert {s.value: s.text for s in column(both, "a").spellings} == {2.0: "2.0", 3.0: "3.0"}

    def test_other_columns_are_refused_by_name(self, read: Read) -> None:
        with pytest.raises(InvalidArgument) as caught:
            self._appended(read, "a,b\n1,x\n", "a,c\n1,x\n")
        assert caught.value.reason == "COLUMNS_DISAGREE"
        assert "'b'" in caught.value.message
        assert "'c'" in caught.value.message

    def test_cells_of_another_type_are_refused_by_row(self, read: Read) -> None:
        with pytest.raises(InvalidArgument) as caught:
            self._appended(read, "a,b\n1,x\n", "a,b\n2,x\nfive,y\n")
        assert caught.value.reason == "NOT_NUMBERS"
        assert "'five' in row 2" in caught.value.message

    def test_numbers_appended_to_strings_are_strings(self, read: Read) -> None:
        both = self._appended(read, "a,b\nu,x\nv,y\n", "a,b\n7,x\n")
        assert cells(both, "a") == ["7"]


def _typed_table() -> Any:
    instants = [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        None,
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
    return pa.table(
        {
            "integer": pa.array([1, None, 3], pa.int16()),
            "large": pa.array([2**60 + 1, None, 3], pa.int64()),
            "float": pa.array([0.5, None, float("nan")], pa.float32()),
            "decimal": pa.array([Decimal("1.25"), None, Decimal("3.50")]),
            "flag": pa.array([True, None, False]),
            "word": pa.array(["x", None, "y"], pa.large_string()),
            "coded": pa.array(["u", None, "v"]).dictionary_encode(),
            "day": pa.array([date(2026, 1, 2), None, date(2026, 3, 4)]),
            "instant": pa.array(instants, pa.timestamp("us", "UTC")),
            "nothing": pa.nulls(3),
        }
    )


def _encoded(table: Any, kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink)
    elif kind == "stream":
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()
