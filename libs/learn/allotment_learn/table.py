"""Feature columns as numpy arrays: numbers are float64 (NaN = missing), the rest strings ("" =
missing)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from allotment_core.errors import DataLoss, InvalidArgument, clip

Array = npt.NDArray[Any]


class ColumnKind(StrEnum):
    """What the cells of a feature are."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    DATE = "date"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A feature column, named as in the file. Dates alone have a `date_format` (strptime
    pattern)."""

    name: str
    type: ColumnKind
    date_format: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns in order, all of one length."""

    columns: tuple[Column, ...]
    arrays: Mapping[str, Array] = field(repr=False)
    row_count: int

    @classmethod
    def of(cls, columns: Sequence[Column], arrays: Mapping[str, Array], row_count: int) -> "Table":
        """A table of arrays that are float64 for numeric columns and object (str) for the rest.

        Raises:
            InvalidArgument: a column is there twice, has no array, or one of another length or
            type.
        """
        names = [column.name for column in columns]
        if len(set(names)) != len(names):
            raise InvalidArgument("a feature column is named twice", reason="DUPLICATE_COLUMN")
        for column in columns:
            array = arrays.get(column.name)
            wanted = np.float64 if column.type is ColumnKind.NUMERIC else np.object_
            if array is None or array.shape != (row_count,) or array.dtype != wanted:
                raise InvalidArgument(
                    f"column '{clip(column.name)}' has to be {row_count} cells of "
                    f"{np.dtype(wanted).name}",
                    reason="BAD_COLUMN",
                )
        return cls(tuple(columns), {name: arrays[name] for name in names}, row_count)

    @classmethod
    def read(cls, paths: Sequence[Path], columns: Sequence[Column]) -> "Table":
        """Reads the columns out of Parquet parts, in row order.

        Raises:
            InvalidArgument: a part lacks a column or holds it as something else.
            DataLoss: a part is not readable Parquet.
        """
        arrays, row_count = read_arrays(
            paths, {c.name: c.type is ColumnKind.NUMERIC for c in columns}
        )
        return cls.of(columns, arrays, row_count)

    def __iter__(self) -> Iterator[tuple[Column, Array]]:
        return ((column, self.arrays[column.name]) for column in self.columns)

    def take(self, rows: npt.NDArray[np.int64]) -> "Table":
        """The given rows, in the given order."""
        return Table(
            self.columns, {name: array[rows] for name, array in self.arrays.items()}, len(rows)
        )


def read_arrays(paths: Sequence[Path], columns: Mapping[str, bool]) -> tuple[dict[str, Array], int]:
    """Columns (name -> whether it is read as numbers) of Parquet parts, and the number of rows.

    Numbers come as float64 (NaN = missing), the rest as str objects ("" = missing). For targets,
    weights, groups and times, which are no features.

    Raises:
        InvalidArgument: a part lacks a column or holds it as something else.
        DataLoss: a part is not readable Parquet.
    """
    parts: dict[str, list[Array]] = {name: [] for name in columns}
    row_count = 0
    for path in paths:
        part = _read_part(path, list(columns))
        row_count += part.num_rows
        for name, numeric in columns.items():
            parts[name].append(_numbers(part, name) if numeric else _strings(part, name))
    arrays: dict[str, Array] = {}
    for name, numeric in columns.items():
        empty = np.empty(0, dtype=np.float64 if numeric else np.object_)
        pieces = parts[name]
        arrays[name] = pieces[0] if len(pieces) == 1 else np.concatenate([empty, *pieces])
    return arrays, row_count


def _read_part(path: Path, names: list[str]) -> Any:
    try:
        file = pq.ParquetFile(path)
        there = set(file.schema_arrow.names)
        for name in names:
            if name not in there:
                raise InvalidArgument(
                    f"the table has no column '{clip(name)}'", reason="NO_SUCH_COLUMN"
                )
        # By index: a dot in a name means a nested field to ParquetFile.read(columns=...).
        if not names:
            return _Rows(file.metadata.num_rows)
        return file.read(columns=names, use_threads=False).select(names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataLoss(
            f"a table part of {path.stat().st_size if path.exists() else 0} bytes is not readable "
            "Parquet; fetch it again",
            reason="BAD_TABLE_PART",
        ) from error


@dataclass(frozen=True, slots=True)
class _Rows:
    num_rows: int


def _numbers(part: Any, name: str) -> Array:
    column = part.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InvalidArgument(
            f"column '{clip(name)}' holds {column.type}, not numbers", reason="BAD_COLUMN"
        )
    filled = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    return np.array(filled.to_numpy(), dtype=np.float64)


def _strings(part: Any, name: str) -> Array:
    column = part.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidArgument(
            f"column '{clip(name)}' holds {column.type}, not strings", reason="BAD_COLUMN"
        )
    # Through a dictionary equal cells share one object: less memory, quicker lookups.
    coded = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    values = np.array(coded.dictionary.to_pylist(), dtype=np.object_)
    if not len(values):
        return np.empty(len(coded), dtype=np.object_)
    return np.asarray(values[coded.indices.to_numpy(zero_copy_only=False)], dtype=np.object_)
