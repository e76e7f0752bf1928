"""A column as the target: the task, its classes, and columns that give it away."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from allotment_core.errors import FieldViolation, InvalidArgument, clip
from allotment_dataset.domain.table import (
    Column,
    ColumnRole,
    ColumnType,
    Inspection,
    Notice,
    TaskType,
    ValueCount,
)
from allotment_dataset.parse.cells import FEW_VALUES, number_text
from allotment_dataset.parse.giveaway import gives_away
from allotment_dataset.parse.roles import require_column

MOST_CLASSES = 1_000
FEW_SHARE = 0.05
"""Integers are classes when there are at most 20 of them and fewer than this share of the rows,
or two in all.
"""

_SAMPLE_ROWS = 50_000
_SAMPLE_CELLS = 20_000_000
_IMBALANCE = 0.1

Array = npt.NDArray[Any]


def inspect(
    paths: Sequence[Path], columns: Sequence[Column], target: str, task: TaskType
) -> Inspection:
    """What the version makes of this target. The rule of inference:

    strings are classes; numbers are classes when there are exactly two, or when all are integers,
    at most 20 of them, and fewer than 5 % of the labelled rows; anything else is regression.
    Raises: InvalidArgument TARGET_NOT_FOUND, TARGET_HAS_ROLE, TARGET_EMPTY, ONE_CLASS,
        TOO_MANY_CLASSES, NOT_BINARY,
        NOT_MULTICLASS, TARGET_NOT_NUMERIC, TARGET_INFINITE.
    """
    require_column(target, [c.name for c in columns], reason="TARGET_NOT_FOUND", what="target")
    column = next(c for c in columns if c.name == target)
    if column.role in (ColumnRole.WEIGHT, ColumnRole.GROUP, ColumnRole.TIME):
        raise _refusal(
            f"target {clip(target)!r} has the role {column.role.value}; a column can't be both",
            "TARGET_HAS_ROLE",
        )
    values = _read_column(paths, target)
    numeric = column.type is ColumnType.NUMERIC
    labelled = ~np.isnan(values) if numeric else values != ""
    labelled_count = int(labelled.sum())
    if not labelled_count:
        raise _refusal(f"target {clip(target)!r} has no value in any row", "TARGET_EMPTY")
    distinct, codes, counts = np.unique(values[labelled], return_inverse=True, return_counts=True)
    chosen = _choose_task(target, distinct, labelled_count, numeric=numeric, wanted=task)
    notices = _missing_notice(target, labelled_count, len(values))
    classes: tuple[ValueCount, ...] = ()
    if chosen is TaskType.REGRESSION:
        goal: Array = values[labelled]
    else:
        labels = class_labels(column, distinct)
        classes = tuple(
            ValueCount(value=label, count=int(count))
            for label, count in zip(labels, counts, strict=True)
        )
        notices += _imbalance_notice(target, classes)
        goal = codes
    rows = np.flatnonzero(labelled)
    notices += _giveaways(paths, columns, target, rows, goal, chosen)
    return Inspection(
        task=chosen,
        labelled_row_count=labelled_count,
        classes=classes,
        warnings=tuple(notices),
    )


def class_labels(column: Column, distinct: Array) -> list[str]:
    """Labels as spelt in the file of ascending distinct values (numbers by value, strings by
    code point).
    """
    if column.type is not ColumnType.NUMERIC:
        return [str(v) for v in distinct]
    spelt = {s.value: s.text for s in column.spellings}
    return [spelt.get(float(v)) or number_text(float(v)) for v in distinct]


def _choose_task(
    target: str, distinct: Array, row_count: int, *, numeric: bool, wanted: TaskType
) -> TaskType:
    count, name = len(distinct), clip(target)
    if count == 1:
        raise _refusal(
            f"target {name!r} has the one value {clip(distinct[0])!r} in all {row_count} "
            "labelled rows; "
            "there is nothing to learn: it needs two or more",
            "ONE_CLASS",
        )
    if wanted is TaskType.REGRESSION or (
        wanted is TaskType.UNSPECIFIED and numeric and not _is_classes(distinct, row_count)
    ):
        if not numeric:
            raise _refusal(
                f"target {name!r} holds strings such as {clip(distinct[0])!r}; regression needs "
                "numbers",
                "TARGET_NOT_NUMERIC",
            )
        if np.isinf(distinct).any():
            raise _refusal(
                f"target {name!r} has infinite values; drop these rows", "TARGET_INFINITE"
            )
        return TaskType.REGRESSION
    if count > MOST_CLASSES:
        raise _refusal(
            f"target {name!r} has {count} classes; the limit is {MOST_CLASSES}: "
            "take another target, or merge classes",
            "TOO_MANY_CLASSES",
        )
    if wanted is TaskType.BINARY and count != 2:
        raise _refusal(
            f"target {name!r} has {count} classes; binary needs 2: take multiclass", "NOT_BINARY"
        )
    if wanted is TaskType.MULTICLASS and count < 3:
        raise _refusal(
            f"target {name!r} has {count} classes; multiclass needs 3 or more: take binary",
            "NOT_MULTICLASS",
        )
    return TaskType.BINARY if count == 2 else TaskType.MULTICLASS


def _is_classes(distinct: Array, row_count: int) -> bool:
    if len(distinct) == 2:
        return True
    integers = bool(np.all(np.isfinite(distinct)) and np.all(np.mod(distinct, 1) == 0))
    return integers and len(distinct) <= FEW_VALUES and len(distinct) < FEW_SHARE * row_count


def _missing_notice(target: str, labelled: int, total: int) -> list[Notice]:
    if labelled == total:
        return []
    message = f"{target!r} is missing in {total - labelled} of {total} rows; they are left out"
    return [Notice(reason="MISSING_TARGETS", message=message, column=target)]


def _imbalance_notice(target: str, classes: tuple[ValueCount, ...]) -> list[Notice]:
    rare = min(classes, key=lambda c: c.count)
    common = max(classes, key=lambda c: c.count)
    if rare.count >= _IMBALANCE * common.count:
        return []
    total = sum(c.count for c in classes)
    message = (
        f"class {clip(rare.value)!r} is rare: {rare.count} of {total} rows "
        f"({100 * rare.count / total:.2g} %), "
        f"{clip(common.value)!r} has {common.count}"
    )
    return [Notice(reason="CLASS_IMBALANCE", message=message, column=target)]


def _giveaways(
    paths: Sequence[Path],
    columns: Sequence[Column],
    target: str,
    rows: npt.NDArray[np.int64],
    goal: Array,
    task: TaskType,
) -> list[Notice]:
    """Single feature columns that all but determine the target, found on at most 50,000 evenly
    spaced rows.
    """
    features = [c for c in columns if c.role is ColumnRole.FEATURE and c.name != target]
    limit = min(_SAMPLE_ROWS, _SAMPLE_CELLS // max(1, len(features)))
    picks = np.unique(np.linspace(0, len(rows) - 1, num=min(limit, len(rows))).astype(np.int64))
    rows, goal = rows[picks], goal[picks]
    notices = []
    for feature, cells in _sampled(paths, features, rows):
        strength = gives_away(cells, goal, regression=task is TaskType.REGRESSION)
        if strength:
            message = (
                f"{feature.name!r} alone tells {target!r} almost perfectly ({strength}); "
                "if it is not known before the target is, ignore it"
            )
            notices.append(
                Notice(reason="NEAR_PERFECT_COLUMN", message=message, column=feature.name)
            )
    return notices


def _sampled(
    paths: Sequence[Path], features: Sequence[Column], rows: npt.NDArray[np.int64]
) -> Iterator[tuple[Column, Array]]:
    """The features' cells of these rows: floats, or integer codes of strings (0 = missing)."""
    if not features:
        return
    names = [f.name for f in features]
    pieces: list[Any] = []
    start = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=names, use_threads=False):
                low, high = np.searchsorted(rows, [start, start + batch.num_rows])
                start += batch.num_rows
                if high > low:
                    within = rows[low:high] - (start - batch.num_rows)
                    pieces.append(batch.select(names).take(pa.array(within)))
    table = pa.Table.from_batches(pieces)
    for feature in features:
        column = table.column(feature.name).combine_chunks()
        if feature.type is ColumnType.NUMERIC:
            yield feature, column.to_numpy(zero_copy_only=False)
            continue
        coded = column.dictionary_encode()
        yield feature, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _read_column(paths: Sequence[Path], name: str) -> Array:
    pieces: list[Any] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            pieces += file.read(columns=[name], use_threads=False).column(name).chunks
    whole = pa.chunked_array(pieces)
    if pa.types.is_floating(whole.type):
        return np.asarray(whole.to_numpy(), dtype=np.float64)
    # Equal strings share one object: sorting and comparing stay cheap in memory.
    coded = whole.combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    values = np.array([*coded.dictionary.to_pylist()], dtype=np.object_)
    return np.asarray(values[coded.indices.to_numpy(zero_copy_only=False)])


def _refusal(message: str, reason: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, violations=(FieldViolation("target", message),))
