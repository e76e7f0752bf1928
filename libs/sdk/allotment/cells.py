"""Rows from delimited text and their cells, read by the same rules as training data.

* A cell that is empty or white space alone is missing, in every column.
* A number is digits with an optional sign, decimal mark and exponent, or inf/infinity with an
optional
  sign in any case; white space around it is dropped.
* The missing markers that a model's signature records ("NA", "?") are missing in number and date
  columns; in other columns they stay the value that they are.

Standard library alone: serving a model must not need more.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from allotment_core.errors import InvalidArgument, clip

DELIMITERS = ",;\t|"
SAMPLE_BYTES = 1 << 20
SAMPLE_ROWS = 100
LONGEST_CELL = 1 << 24
"""Characters of one cell."""

_NUMBER = {
    ".": re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?"),
    ",": re.compile(r"[+-]?(?:[0-9]+,?[0-9]*|,[0-9]+)(?:[eE][+-]?[0-9]{1,5})?"),
}
_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRules:
    """How the training file was read: what a model's signature records."""

    decimal: str = "."
    missing_markers: frozenset[str] = frozenset()

    def number(self, cell: str) -> float | None:
        """The cell's number, NaN where it is missing, None where it is neither.

        The other decimal mark is understood where the cell is no number with the recorded one.
        """
        text = cell.strip()
        if not text or text in self.missing_markers:
            return math.nan
        if _INFINITE.fullmatch(text):
            return float(text)
        other = "," if self.decimal == "." else "."
        for decimal in (self.decimal, other):
            if _NUMBER[decimal].fullmatch(text):
                return float(text.replace(",", "."))
        return None

    def date(self, cell: str) -> str:
        """The cell without white space around it, "" where it is missing."""
        text = cell.strip()
        return "" if text in self.missing_markers else text

    def text(self, cell: str) -> str:
        """The cell as it is, "" where it is missing."""
        return cell if cell.strip() else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file's bytes become rows."""

    encoding: str
    delimiter: str


class RowFile:
    """A delimited file with one header line.

    Iterating yields (line number, cells) with as many cells as the header has. Lines without
    anything on them are no rows, unless the file has a single column.
    Raises: InvalidArgument (FILE_UNREADABLE, NO_HEADER, RAGGED_ROW, BAD_TEXT) here or on the way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(SAMPLE_BYTES)
        except OSError as e:
            raise InvalidArgument(
                f"{path} can't be read: {e.strerror}; name a file that exists",
                reason="FILE_UNREADABLE",
            ) from e
        self.dialect = detect(head)
        self.header = next(self._rows(), (0, []))[1]
        if not self.header:
            raise InvalidArgument(
                f"{path} is empty; it needs a header line with the columns' names",
                reason="NO_HEADER",
            )

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        width = len(self.header)
        rows = self._rows()
        next(rows)
        for line, cells in rows:
            if len(cells) != width:
                if not cells and width > 1:
                    continue
                cells = self._mended(line, cells, width)
            yield line, cells

    def _mended(self, line: int, cells: list[str], width: int) -> list[str]:
        if not cells:
            return [""]
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            return cells[:width]
        raise InvalidArgument(
            f"{self.path}, line {line}: {len(cells)} cells where the header has {width}; "
            "mend the line (a cell with a delimiter or a newline needs quotes)",
            reason="RAGGED_ROW",
        )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(LONGEST_CELL)
        with self.path.open(encoding=self.dialect.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=self.dialect.delimiter)
            try:
                for cells in reader:
                    yield reader.line_num, cells
            except (csv.Error, UnicodeDecodeError) as e:
                raise InvalidArgument(
                    f"{self.path}, after line {reader.line_num}: not readable as delimited text "
                    f"({clip(e)}); save it as UTF-8 CSV",
                    reason="BAD_TEXT",
                ) from e


def detect(head: bytes) -> Dialect:
    """Encoding and delimiter of a file that begins with these bytes."""
    encoding = detect_encoding(head)
    text = head.decode(encoding, errors="ignore")
    complete = len(head) < SAMPLE_BYTES
    return Dialect(encoding=encoding, delimiter=detect_delimiter(text, complete=complete))


def detect_encoding(head: bytes) -> str:
    """By its byte order mark; else UTF-8 where the bytes allow it; else Windows' Latin."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        # A character cut at the sample's end is no error.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252" if _decodes(head, "cp1252") else "latin-1"
    return "utf-8"


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        head.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def detect_delimiter(text: str, *, complete: bool) -> str:
    """The one that cuts most of the first rows into as many cells as the header, and the header
    into most.
    """
    best, best_rank = ",", (0.0, 1)
    for delimiter in DELIMITERS:
        widths = _widths(text, delimiter, complete)
        if widths and widths[0] > 1:
            rank = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
            if rank > best_rank:
                best, best_rank = delimiter, rank
    return best


def _widths(text: str, delimiter: str, complete: bool) -> Sequence[int]:
    csv.field_size_limit(LONGEST_CELL)
    widths = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if cells:
                widths.append(len(cells))
            if len(widths) > SAMPLE_ROWS:
                break
    except csv.Error:
        return widths
    # The sample may end within a row.
    return widths if complete or len(widths) < 2 else widths[:-1]
