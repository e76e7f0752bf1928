"""Cells and rows are read as the training file was."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment.cells import CellRules, RowFile, detect, detect_encoding
from allotment_core.errors import InvalidArgument

RULES = CellRules(decimal=".", missing_markers=frozenset({"NA", "?"}))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1.0),
        (" 1.5 ", 1.5),
        ("+.5", 0.5),
        ("-3.", -3.0),
        ("1e3", 1000.0),
        ("1E-2", 0.01),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("1,5", 1.5),
        ("1e99999", math.inf),
    ],
)
def test_numbers_are_read(cell: str, value: float) -> None:
    assert RULES.number(cell) == value


@pytest.mark.parametrize("cell", ["", " ", "\t", "NA", " ? "])
def test_blank_cells_and_markers_are_missing_numbers(cell: str) -> None:
    number = RULES.number(cell)
    assert number is not None
    assert math.isnan(number)


@pytest.mark.parametrize(
    "cell", ["abc", "1_000", "nan", "0x10", "1 2", "--1", "None", "1,234.5", "٣"]
)
def test_other_cells_are_no_numbers(cell: str) -> None:
    assert RULES.number(cell) is None


def test_the_recorded_decimal_mark_goes_before_the_other() -> None:
    comma = CellRules(decimal=",")
    assert comma.number("1,5") == 1.5
    assert comma.number("1.5") == 1.5


def test_markers_are_values_in_text_and_missing_in_dates() -> None:
    assert RULES.text("NA") == "NA"
    assert RULES.text("  ") == ""
    assert RULES.text(" a ") == " a "
    assert RULES.date(" 2024-01-02 ") == "2024-01-02"
    assert RULES.date("NA") == ""


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_exactly(value: float) -> None:
    assert RULES.number(repr(value)) == value


@given(st.text(max_size=40))
def test_no_cell_raises(cell: str) -> None:
    RULES.number(cell)
    RULES.text(cell)
    RULES.date(cell)


def rows(path: Path, content: bytes) -> tuple[list[str], list[list[str]]]:
    path.write_bytes(content)
    file = RowFile(path)
    return file.header, [cells for _, cells in file]


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n3,4\n",
        b"a;b\r\n1;2\r\n3;4\r\n",
        b"\xef\xbb\xbfa\tb\n1\t2\n3\t4",
        "a|b\n1|2\n3|4\n".encode("utf-16"),
        b'"a","b"\n"1","2"\n\n"3","4"\n',
    ],
)
def test_dialects_are_found_out(tmp_path: Path, content: bytes) -> None:
    assert rows(tmp_path / "x.csv", content) == (["a", "b"], [["1", "2"], ["3", "4"]])


def test_quoted_cells_keep_newlines_delimiters_and_quotes(tmp_path: Path) -> None:
    found = rows(tmp_path / "x.csv", b'a,b\n"x\ny","1,5"\n"say ""hi""",2\n')
    assert found[1] == [["x\ny", "1,5"], ['say "hi"', "2"]]


def test_commas_in_cells_do_not_win_over_the_real_delimiter() -> None:
    head = b"a;b;c\n1,5;2,5;3,5\n1,0;2,0;x,y,z\n"
    assert detect(head).delimiter == ";"


def test_an_empty_line_of_a_single_column_is_a_row(tmp_path: Path) -> None:
    assert rows(tmp_path / "x.csv", b"a\n1\n\n2\n")[1] == [["1"], [""], ["2"]]


def test_latin_text_is_read(tmp_path: Path) -> None:
    assert rows(tmp_path / "x.csv", "a,b\nGöteborg,1\n".encode("latin-1"))[1] == [["Göteborg", "1"]]


def test_a_character_cut_at_the_samples_end_is_utf8() -> None:
    assert detect_encoding("aé".encode()[:-1]) == "utf-8"


def test_a_ragged_row_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="line 3: 3 cells where the header has 2") as caught:
        rows(tmp_path / "x.csv", b"a,b\n1,2\n1,2,3\n")
    assert caught.value.reason == "RAGGED_ROW"


def test_empty_cells_beyond_the_header_are_dropped(tmp_path: Path) -> None:
    assert rows(tmp_path / "x.csv", b"a,b\n1,2,,\n3,4\n")[1] == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rows(tmp_path / "x.csv", content)
    assert caught.value.reason == "NO_HEADER"
