"""Sources of rows: every format as a sequence of batches of raw columns that can be read twice.

A raw column of a batch is a `pyarrow.StringArray` ("" = missing) or, where the format itself says
that it holds numbers, a float64 numpy array (NaN = missing).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.table import FileFormat, Notice
from allotment_dataset.parse.dialect import (
    LONGEST_CELL,
    Header,
    column_names,
    explain_bad_rows,
    read_header,
)
from allotment_dataset.parse.text import TextFile, open_text

Floats = npt.NDArray[np.float64]
RawColumn = Any
"""A pyarrow.StringArray or a float64 numpy array."""

Batch = Mapping[str, RawColumn]

_BLOCK_BYTES = LONGEST_CELL
_KEPT_BYTES = 64 << 20
_JSON_ROWS = 20_000
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How the file was read, as far as its format decides it."""

    format: FileFormat
    names: tuple[str, ...]
    encoding: str = ""
    delimiter: str = ""
    number_names: frozenset[str] = frozenset()
    """Columns that the format itself says are numbers."""
    date_formats: Mapping[str, str] = field(default_factory=dict)
    """Columns that the format itself says are dates, and how their cells are spelt here."""
    notices: tuple[Notice, ...] = ()


class Source(Protocol):
    """A readable file. `batches` starts anew at every call; batches have at least one row."""

    facts: Facts

    def batches(self) -> Iterator[tuple[Batch, int, float]]:
        """Batches with their number of rows and the share of the file that has been read after
        them.
        """
        ...


class DelimitedSource:
    """CSV and its relatives."""

    def __init__(self, path: Path, work_dir: Path, *, max_columns: int) -> None:
        self._file: TextFile = open_text(path, work_dir)
        self._header: Header = read_header(self._file, max_columns=max_columns)
        self._size = self._file.path.stat().st_size
        self._kept: list[tuple[Batch, int, float]] | None = None
        self.facts = Facts(
            format=FileFormat.DELIMITED,
            names=self._header.names,
            encoding=self._file.encoding,
            delimiter=self._header.delimiter,
            notices=self._file.notices + self._header.notices,
        )

    def batches(self) -> Iterator[tuple[Batch, int, float]]:
        if self._kept is not None:
            yield from self._kept
            return
        keep: list[tuple[Batch, int, float]] | None = [] if self._size < _KEPT_BYTES else None
        for item in self._read():
            if keep is not None:
                keep.append(item)
            yield item
        self._kept = keep

    def _read(self) -> Iterator[tuple[Batch, int, float]]:
        names = self._header.names
        last: Any = None
        try:
            with pa.OSFile(str(self._file.path)) as raw:
                raw.seek(self._file.skip_bytes)
                with self._open(raw) as reader:
                    for batch in reader:
                        if batch.num_rows:
                            last = batch
                            _check_cells(batch)
                            columns = {n: batch.column(i) for i, n in enumerate(names)}
                            yield columns, batch.num_rows, min(1.0, raw.tell() / self._size)
        except pa.ArrowInvalid as e:
            raise explain_bad_rows(self._file, self._header) from e
        self._check_end(last)

    def _check_end(self, last: Any) -> None:
        """Raises: InvalidArgument when a quote that is never closed swallowed the rest of the
        file.
        """
        cell = last.column(last.num_columns - 1)[-1].as_py() if last is not None else ""
        if "\n" not in cell and "\r" not in cell:
            return
        with self._file.path.open("rb") as file:
            file.seek(max(0, self._size - _TAIL_BYTES))
            tail = file.read().rstrip()
        if not tail.endswith(b'"'):
            raise InvalidArgument(
                f"a quote is never closed: the cell that begins with {clip(cell, 40)!r} in the "
                "last "
                f"row goes on for {len(cell)} characters to the end of the file; close it",
                reason="UNCLOSED_QUOTE",
            )

    def _open(self, raw: Any) -> Any:
        names = list(self._header.names)
        return pacsv.open_csv(
            raw,
            pacsv.ReadOptions(
                block_size=_BLOCK_BYTES, column_names=names, skip_rows=self._header.line_count
            ),
            pacsv.ParseOptions(
                delimiter=self._header.delimiter, newlines_in_values=self._file.has_quotes
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )


def _check_cells(batch: Any) -> None:
    """Raises: InvalidArgument for a cell beyond the limit, which the reader let pass."""
    if batch.nbytes <= LONGEST_CELL:
        return
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        longest = pc.max(pc.binary_length(column)).as_py()
        if longest > LONGEST_CELL:
            raise InvalidArgument(
                f"column {clip(name)!r} has a cell of {longest} bytes; the limit is "
                f"{LONGEST_CELL}: "
                "shorten it, unless a quote in it is never closed",
                reason="CELL_TOO_LONG",
            )


class JsonLinesSource:
    """One JSON object a line.

    Columns are the keys in order of their first appearance; absent and null are missing.

    Cells are taken as text and inferred like those of a CSV; booleans are "true" and "false".
    """

    def __init__(self, path: Path, work_dir: Path, *, max_columns: int) -> None:
        self._file = open_text(path, work_dir)
        self._size = max(1, self._file.path.stat().st_size)
        keys: dict[str, None] = {}
        row_count = 0
        for _, row in self._rows():
            row_count += 1
            if not keys.keys() >= row.keys():
                keys.update(dict.fromkeys(row))
                if len(keys) > max_columns:
                    column_names(list(keys), max_columns=max_columns)
        if not row_count or not keys:
            raise InvalidArgument("the file has no objects with keys; add rows", reason="NO_ROWS")
        names, notices = column_names(list(keys), max_columns=max_columns)
        self._keys = tuple(keys)
        self.facts = Facts(
            format=FileFormat.JSONL,
            names=names,
            encoding=self._file.encoding,
            notices=self._file.notices + tuple(notices),
        )

    def batches(self) -> Iterator[tuple[Batch, int, float]]:
        rows: list[dict[str, str]] = []
        held = 0
        for offset, row in self._rows():
            rows.append(row)
            held += sum(map(len, row.values()))
            if len(rows) >= _JSON_ROWS or held > _BLOCK_BYTES:
                yield self._batch(rows), len(rows), min(1.0, offset / self._size)
                rows, held = [], 0
        if rows:
            yield self._batch(rows), len(rows), 1.0

    def _batch(self, rows: Sequence[Mapping[str, str]]) -> Batch:
        return {
            name: pa.array([row.get(key, "") for row in rows], pa.string())
            for name, key in zip(self.facts.names, self._keys, strict=True)
        }

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        offset = 0
        with self._file.path.open("rb") as file:
            file.seek(self._file.skip_bytes)
            number = 0
            while line := file.readline(LONGEST_CELL + 1):
                number += 1
                offset += len(line)
                if len(line) > LONGEST_CELL:
                    raise InvalidArgument(
                        f"line {number} has more than {LONGEST_CELL} bytes; write one object a "
                        "line",
                        reason="ROW_TOO_LONG",
                    )
                if stripped := line.strip():
                    yield offset, _json_row(stripped, number)


def _json_row(line: bytes, number: int) -> dict[str, str]:
    try:
        row = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(
            f"line {number} is not JSON: {clip(e)}; write one object a line", reason="BAD_JSON"
        ) from e
    if not isinstance(row, dict):
        raise InvalidArgument(
            f"line {number} is not a JSON object but {clip(line.decode())}; write one object a "
            "line",
            reason="BAD_JSON",
        )
    return {key: _json_cell(key, cell, number) for key, cell in row.items()}


def _json_cell(key: str, cell: Any, number: int) -> str:
    if isinstance(cell, str):
        try:
            cell.encode()
        except UnicodeEncodeError:
            return cell.encode("utf-8", "replace").decode()
        return cell
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    kind = "an object" if isinstance(cell, dict) else "an array"
    raise InvalidArgument(
        f"{clip(key)!r} in line {number} is {kind}; cells have to be plain values: flatten it, "
        "or drop it",
        reason="NESTED_COLUMN",
    )
