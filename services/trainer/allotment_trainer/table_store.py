"""Arrays of a table's columns, kept between the trials of an experiment.

The first trial reads Parquet and leaves what it read: numbers as .npy (mapped, not read, by those
that follow), strings as .npy of codes and a .json with what each code stands for. Several trials
may write the same column; all write the same bytes, and a file gets its name when it is whole.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from allotment_learn.table import Array, read_arrays
from allotment_trainer.domain.job import JobColumn


def load(
    table: Path, parts: Sequence[Path], columns: Sequence[JobColumn]
) -> tuple[Mapping[str, Array], int]:
    """The columns' arrays (float64 with NaN = missing, or str objects with "" = missing), and the
    number of rows.

    Raises:
        InvalidArgument: a part lacks a column or holds it as something else.
        DataLoss: a part is not readable Parquet.
    """
    arrays = {column.name: _open(table, column) for column in columns}
    missing = {c.name: c.is_numeric for c in columns if arrays[c.name] is None}
    if missing:
        fresh, _ = read_arrays(parts, missing)
        for column in columns:
            if column.name in fresh:
                arrays[column.name] = fresh[column.name]
                _keep(table, column, fresh[column.name])
    there = {name: array for name, array in arrays.items() if array is not None}
    return there, len(next(iter(there.values())))


def _open(table: Path, column: JobColumn) -> Array | None:
    stem = _stem(table, column)
    try:
        stored = np.asarray(np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False))
        if column.is_numeric:
            return stored
        values = json.loads(stem.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return None
    return np.asarray(np.array([*values, None], dtype=np.object_)[stored], dtype=np.object_)


def _keep(table: Path, column: JobColumn, array: Array) -> None:
    stem = _stem(table, column)
    if column.is_numeric:
        _write(stem.with_suffix(".npy"), lambda path: _save(path, array))
        return
    numbers: dict[str, int] = {}
    codes = np.fromiter(
        (numbers.setdefault(cell, len(numbers)) for cell in array), np.int32, len(array)
    )
    # The codes last: they say that the column is there.
    _write(stem.with_suffix(".json"), lambda path: path.write_text(json.dumps(list(numbers))))
    _write(stem.with_suffix(".npy"), lambda path: _save(path, codes))


def _save(path: Path, array: Array) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _stem(table: Path, column: JobColumn) -> Path:
    kind = "n" if column.is_numeric else "s"
    return table / f"{kind}-{hashlib.sha256(column.name.encode()).hexdigest()[:32]}"
