"""A table in the form that every fold starts from: one matrix of numbers, one code per string
cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from allotment_learn.dates import DatePattern, read_parts
from allotment_learn.table import Array, ColumnKind, Table
from allotment_learn.task import Floats, Integers
from allotment_learn.words import Words


@dataclass(frozen=True, slots=True)
class NumberSource:
    """Where a column of the matrix comes from: a numeric column, or one part of a date column."""

    column: str
    part: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A string column as places in the list of its distinct values."""

    codes: npt.NDArray[np.int64]
    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Cells:
    """A text column; its words are looked for when they are first asked for, once for all rows."""

    cells: Array

    @cached_property
    def words(self) -> Words:
        return Words.of(self.cells)


@dataclass(frozen=True, eq=False)
class CellsOfRows:
    """Some rows of a text column."""

    source: Cells
    rows: Integers

    @cached_property
    def words(self) -> Words:
        return self.source.words.take(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """`numbers` is float64 [rows, sources], NaN = missing; `strings` holds the categorical columns,
    `texts` those of prose."""

    row_count: int
    sources: tuple[NumberSource, ...]
    numbers: Floats
    strings: Mapping[str, Coded]
    texts: Mapping[str, Cells | CellsOfRows] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, *, with_dates: bool) -> "Features":
        """Raises: InvalidArgument when a date column's pattern can't be read."""
        sources: list[NumberSource] = []
        blocks: list[Floats] = []
        strings: dict[str, Coded] = {}
        texts: dict[str, Cells | CellsOfRows] = {}
        for column, cells in table:
            if column.type is ColumnKind.NUMERIC:
                sources.append(NumberSource(column.name))
                blocks.append(cells[:, None])
            elif column.type is ColumnKind.CATEGORICAL:
                strings[column.name] = code(cells)
            elif column.type is ColumnKind.TEXT:
                texts[column.name] = Cells(cells)
            elif with_dates:
                pattern = DatePattern.parse(column.date_format)
                sources.extend(NumberSource(column.name, part) for part in pattern.parts)
                coded = code(cells)
                blocks.append(read_parts(coded.values, pattern)[coded.codes])
        numbers = np.concatenate([np.empty((table.row_count, 0)), *blocks], axis=1)
        return cls(table.row_count, tuple(sources), numbers, strings, texts)

    def take(self, rows: Integers) -> "Features":
        """The given rows, in the given order."""
        return Features(
            len(rows),
            self.sources,
            self.numbers[rows],
            {name: Coded(c.codes[rows], c.values) for name, c in self.strings.items()},
            {name: _taken(column, rows) for name, column in self.texts.items()},
        )


def _taken(column: Cells | CellsOfRows, rows: Integers) -> CellsOfRows:
    if isinstance(column, Cells):
        return CellsOfRows(column, rows)
    return CellsOfRows(column.source, column.rows[rows])


def code(cells: Array) -> Coded:
    """Distinct values in order of first appearance."""
    encoded = pa.array(cells, type=pa.large_string()).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes, tuple(encoded.dictionary.to_pylist()))
