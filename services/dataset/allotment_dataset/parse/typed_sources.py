"""Sources whose format has types of its own: Parquet and Arrow IPC.

Integers, floats, decimals and durations (in seconds) are numbers; integers beyond 2^53 make their
column strings, since float64 can't hold them. Booleans are "true" and "false". Dates and times of
day are spelt by ISO 8601 without fractions of a second, instants with a zone in UTC. Strings are
inferred like the cells of a CSV.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from allotment_core.errors import InvalidArgument, clip
from allotment_dataset.domain.table import FileFormat, Notice
from allotment_dataset.parse.cells import EXACT_INTEGER
from allotment_dataset.parse.dialect import column_names
from allotment_dataset.parse.sources import Batch, Facts, RawColumn

_BATCH_ROWS = 65_536
_LARGEST_BATCH_BYTES = 1 << 30


class ColumnarSource:
    """A Parquet file, an Arrow IPC stream, or an Arrow IPC file."""

    def __init__(self, path: Path, file_format: FileFormat, *, max_columns: int) -> None:
        self._path = path
        self._format = file_format
        try:
            schema, row_count = self._open_schema()
        except (pa.ArrowException, OSError) as e:
            raise _unreadable(file_format, e) from e
        names, notices = column_names([str(n) for n in schema.names], max_columns=max_columns)
        for field in schema:
            _refuse_nested(field)
        self._types = dict(zip(names, schema.types, strict=True))
        if row_count == 0 or not names:
            raise InvalidArgument(
                f"the table has {len(names)} columns and no rows; add rows", reason="NO_ROWS"
            )
        self._large = self._large_integers()
        notices += [_large_notice(name) for name in self._large]
        self.facts = Facts(
            format=file_format,
            names=names,
            number_names=frozenset(
                n for n, t in self._types.items() if _is_number(t) and n not in self._large
            ),
            date_formats={
                n: "%Y-%m-%d" if _is_day(t) else "%Y-%m-%d %H:%M:%S"
                for n, t in self._types.items()
                if pa.types.is_date(t) or pa.types.is_timestamp(t)
            },
            notices=tuple(notices),
        )

    def batches(self) -> Iterator[tuple[Batch, int, float]]:
        for batch, share in self._record_batches():
            columns = {
                name: self._raw(name, batch.column(i)) for i, name in enumerate(self.facts.names)
            }
            yield columns, batch.num_rows, share

    def _raw(self, name: str, array: Any) -> RawColumn:
        arrow_type = self._types[name]
        if name in self._large:
            return pc.fill_null(array.cast(pa.string()), "")
        if _is_number(arrow_type):
            if pa.types.is_duration(arrow_type):
                array = array.cast(pa.duration("ns"), safe=False).cast(pa.int64())
                array = pc.divide(array.cast(pa.float64(), safe=False), 1e9)
            values = pc.fill_null(array.cast(pa.float64(), safe=False), float("nan"))
            return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
        return pc.fill_null(_as_text(array), "")

    def _open_schema(self) -> tuple[Any, int | None]:
        if self._format is FileFormat.PARQUET:
            with pq.ParquetFile(self._path) as file:
                return file.schema_arrow, file.metadata.num_rows
        with closing(_ipc_reader(self._path)) as reader:
            return reader.schema, None

    def _record_batches(self) -> Iterator[tuple[Any, float]]:
        """Batches with rows.

        Raises: InvalidArgument for damaged files and for ones without any row.
        """
        found = False
        try:
            for batch, share in self._unchecked_batches():
                if batch.num_rows:
                    found = True
                    if batch.nbytes > _LARGEST_BATCH_BYTES:
                        raise InvalidArgument(
                            f"a batch has {batch.nbytes} bytes; the limit is "
                            f"{_LARGEST_BATCH_BYTES}: "
                            "write smaller batches or row groups",
                            reason="BATCH_TOO_LARGE",
                        )
                    batch.validate(full=True)
                    yield batch, share
        except (pa.ArrowException, OSError) as e:
            raise _unreadable(self._format, e) from e
        if not found:
            raise InvalidArgument("the table has no rows; add rows", reason="NO_ROWS")

    def _unchecked_batches(self) -> Iterator[tuple[Any, float]]:
        if self._format is FileFormat.PARQUET:
            with pq.ParquetFile(self._path) as file:
                total, seen = file.metadata.num_rows, 0
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    seen += batch.num_rows
                    yield batch, seen / max(1, total)
            return
        with closing(_ipc_reader(self._path)) as reader:
            for batch in reader.batches():
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield batch.slice(start, _BATCH_ROWS), 0.5

    def _large_integers(self) -> frozenset[str]:
        """Columns with integers that float64 can't hold."""
        wide = [n for n, t in self._types.items() if t in (pa.int64(), pa.uint64())]
        large: set[str] = set()
        if wide:
            names = list(self._types)
            for batch, _ in self._record_batches():
                for name in wide:
                    bounds = pc.min_max(batch.column(names.index(name)))
                    low, high = bounds["min"].as_py(), bounds["max"].as_py()
                    if low is not None and (low < -EXACT_INTEGER or high > EXACT_INTEGER):
                        large.add(name)
        return frozenset(large)


class _Ipc:
    """An IPC stream or file as one thing: a schema and batches."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path))
        if self._file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(self._file)
            self.schema = reader.schema
            self._batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            self._file.seek(0)
            stream = pa.ipc.open_stream(self._file)
            self.schema = stream.schema
            self._batches = (batch for batch in stream)

    def batches(self) -> Iterator[Any]:
        return self._batches

    def close(self) -> None:
        self._file.close()


def _ipc_reader(path: Path) -> _Ipc:
    return _Ipc(path)


def _unreadable(file_format: FileFormat, error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"the file can't be read as {file_format.value.title()}: {clip(error, 160)}; "
        "it may be damaged or cut short: write it again",
        reason="DAMAGED_FILE",
    )


def _is_number(t: Any) -> bool:
    return bool(
        pa.types.is_integer(t)
        or pa.types.is_floating(t)
        or pa.types.is_decimal(t)
        or pa.types.is_duration(t)
    )


def _is_day(t: Any) -> bool:
    return bool(pa.types.is_date(t))


def _refuse_nested(field: Any) -> None:
    t = field.type
    if pa.types.is_dictionary(t):
        t = t.value_type
    plain = (
        _is_number(t)
        or pa.types.is_boolean(t)
        or pa.types.is_null(t)
        or pa.types.is_string(t)
        or pa.types.is_large_string(t)
        or pa.types.is_string_view(t)
        or pa.types.is_date(t)
        or pa.types.is_timestamp(t)
        or pa.types.is_time(t)
    )
    if not plain:
        raise InvalidArgument(
            f"column {clip(field.name)!r} holds {clip(field.type)}; cells have to be numbers, "
            "strings, "
            "booleans, dates or times: flatten it, or drop it",
            reason="NESTED_COLUMN",
        )


def _as_text(array: Any) -> Any:
    t = array.type
    if pa.types.is_dictionary(t):
        array = array.dictionary_decode()
        return _as_text(array)
    if pa.types.is_boolean(t):
        return pc.if_else(array, "true", "false")
    # Casts, for pyarrow's strftime needs a database of time zones, which small machines lack.
    if pa.types.is_date(t):
        return array.cast(pa.date32()).cast(pa.string())
    if pa.types.is_timestamp(t):
        seconds = array.cast(pa.timestamp("s"), safe=False)  # The instant in UTC, zone dropped.
        return seconds.cast(pa.string())
    if pa.types.is_time(t):
        text = array.cast(pa.string())
        return pc.replace_substring_regex(text, r"\.[0-9]+$", "")
    return array.cast(pa.string())


def _large_notice(name: str) -> Notice:
    return Notice(
        reason="LARGE_INTEGERS",
        message=f"{name!r} has integers beyond 2^53, which float64 can't hold; they are kept as "
        "strings",
        column=name,
    )
