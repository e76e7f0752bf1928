"""The dialect of delimited text: delimiter and header."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.column_names import LONGEST_NAME
from allotment_dataset.domain.table import Notice
from allotment_dataset.parse.text import TextFile

LONGEST_CELL = 8 << 20
"""Bytes of a cell, or of a row, at most."""

_SAMPLE_CHARACTERS = 1 << 20
_SAMPLE_ROWS = 200
_DELIMITERS = (",", ";", "\t", "|")
_CHARACTER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Column names, and how many lines of the file come before the first row."""

    names: tuple[str, ...]
    delimiter: str
    line_count: int
    notices: tuple[Notice, ...] = ()


def read_header(file: TextFile, *, max_columns: int) -> Header:
    """Finds the delimiter and the column names.

    The delimiter is the one of , ; tab | by which the most rows of the sample have as many cells
    as the header (two or more); among equals the one with more columns. Without any the file has
    one column.
    Raises: InvalidArgument NO_ROWS, DUPLICATE_COLUMNS, TOO_MANY_COLUMNS, NAME_TOO_LONG.
    """
    sample = _sample(file)
    delimiter = find_delimiter(sample)
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    cells: list[str] = []
    try:
        cells = next((row for row in reader if row), [])
        line_count = reader.line_num
        first_row = next((row for row in reader if row), None)
    except csv.Error as e:
        raise InvalidArgument(f"the header can't be read: {e}", reason="BAD_HEADER") from e
    if first_row is None:
        raise InvalidArgument(
            f"the file has a header of {len(cells)} columns and no rows; add rows", reason="NO_ROWS"
        )
    names, notices = column_names(cells, max_columns=max_columns)
    if all(_is_numeric(cell) for cell in cells):
        notices.append(
            Notice(
                reason="NUMERIC_HEADER",
                message="the first line has numbers alone; it was taken as the header: "
                "if it is a row, write a header above it",
            )
        )
    return Header(names=names, delimiter=delimiter, line_count=line_count, notices=tuple(notices))


def column_names(cells: Sequence[str], *, max_columns: int) -> tuple[tuple[str, ...], list[Notice]]:
    """The names as they are used: trimmed; a nameless one is called by its position, "column_3"."""
    if len(cells) > max_columns:
        raise InvalidArgument(
            f"the table has {len(cells)} columns; the limit is {max_columns}: leave some out",
            reason="TOO_MANY_COLUMNS",
        )
    notices: list[Notice] = []
    names: list[str] = []
    for position, cell in enumerate(cells, start=1):
        name = cell.strip().strip("\ufeff").strip()
        if len(name) > LONGEST_NAME:
            raise InvalidArgument(
                f"the name of column {position}, {clip(name)!r}, has {len(name)} characters; "
                f"the limit is {LONGEST_NAME}: shorten it",
                reason="NAME_TOO_LONG",
            )
        if not name:
            name = f"column_{position}"
            message = f"column {position} has no name in the header; it is called {name!r} here"
            notices.append(Notice(reason="UNNAMED_COLUMN", message=message, column=name))
        names.append(name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        places = [i for i, name in enumerate(names, start=1) if name == twice[0]]
        raise InvalidArgument(
            f"column {clip(twice[0])!r} is there {len(places)} times (columns "
            f"{', '.join(map(str, places[:5]))}); every column needs a name of its own: rename "
            "or drop one",
            reason="DUPLICATE_COLUMNS",
        )
    return tuple(names), notices


def find_delimiter(sample: str) -> str:
    """The delimiter of a piece of text that begins with the header."""
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        widths = [len(row) for row in _rows(sample, delimiter)]
        if not widths or widths[0] < 2:
            continue
        agreeing = sum(width == widths[0] for width in widths) / len(widths)
        score = (round(agreeing, 2), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def describe(delimiter: str) -> str:
    return _CHARACTER_NAMES.get(delimiter, repr(delimiter))


def explain_bad_rows(file: TextFile, header: Header) -> InvalidArgument:
    """Why the fast reader refused the rows, with lines: reads the file again, slowly."""
    found: list[str] = []
    count = 0
    width = len(header.names)
    with file.path.open("rb") as raw:
        raw.seek(file.skip_bytes)
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        reader = csv.reader(text, delimiter=header.delimiter)
        line = 1
        try:
            for row in reader:
                if row and line > header.line_count and len(row) != width:
                    count += 1
                    if count <= 5:
                        found.append(f"line {line} has {len(row)}")
                line = reader.line_num + 1
        except csv.Error:
            return InvalidArgument(
                f"the row that begins in line {line} has a cell of more than {LONGEST_CELL} bytes; "
                "most likely a quote in it is never closed",
                reason="CELL_TOO_LONG",
            )
    if not found:
        return InvalidArgument(
            f"a row is longer than {LONGEST_CELL} bytes; most likely a quote in it is never closed",
            reason="ROW_TOO_LONG",
        )
    more = f" and {count - 5} more rows" if count > 5 else ""
    return InvalidArgument(
        f"the header has {width} cells (delimiter: {describe(header.delimiter)}), but "
        f"{', '.join(found)}"
        f"{more}; give every row {width} cells, and quote cells that contain the delimiter",
        reason="RAGGED_ROWS",
    )


def _sample(file: TextFile) -> str:
    with file.path.open("rb") as raw:
        raw.seek(file.skip_bytes)
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        return text.read(_SAMPLE_CHARACTERS)


def _rows(sample: str, delimiter: str) -> Iterator[list[str]]:
    """The first whole rows of the sample.

    A sample that was cut ends in a part of a row, which is left out.
    """
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    cut = len(sample) >= _SAMPLE_CHARACTERS
    previous: list[str] | None = None
    try:
        for number, row in enumerate(r for r in reader if r):
            if previous is not None:
                yield previous
            if number >= _SAMPLE_ROWS:
                return
            previous = row
    except csv.Error:
        return
    if previous is not None and not cut:
        yield previous


def _is_numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
