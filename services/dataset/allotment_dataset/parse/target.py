"""A column as the target: the task, its classes, and columns that give it away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from allotment_core.errors import FieldViolation, InvalidArgument, clip
from allotment_dataset.domain.column_names import require_column
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

MOST_CLASSES = 1_000
MOST_LABEL_CHARACTERS = 1_000
FEW_SHARE = 0.05
"""Integers are classes when there are at most 20 of them and fewer than this share of the rows,
or two in all.
"""

_SAMPLE_ROWS = 50_000
_SAMPLE_CELLS = 20_000_000
_SAMPLE_GROUPS = 40
_IMBALANCE = 0.1

Array = npt.NDArray[Any]


def inspect(
    paths: Sequence[Path], columns: Sequence[Column], target: str, task: TaskType
) -> Inspection:
    """What the version makes of this target. The rule of inference:

    strings are classes; numbers are classes when there are exactly two, or when all are integers,
    at most 20 of them, and fewer than 5 % of the labelled rows; anything else is regression.
    Raises: InvalidArgument TARGET_NOT_FOUND, TARGET_HAS_ROLE, TARGET_EMPTY, ONE_CLASS,
        TOO_MANY_CLASSES, LABEL_TOO_LONG, NOT_BINARY,
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
    if not numeric and max(map(len, distinct)) > MOST_LABEL_CHARACTERS:
        longest = max(distinct, key=len)
        raise _refusal(
            f"target {name!r} has a class of {len(longest)} characters, {clip(longest)!r}; the "
            "limit "
            f"is {MOST_LABEL_CHARACTERS}: shorten it, or take another target",
            "LABEL_TOO_LONG",
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
    groups = _row_groups(paths)
    near = _within(groups, rows)
    rows, goal = rows[near], goal[near]
    if not len(rows):
        return []
    limit = min(_SAMPLE_ROWS, _SAMPLE_CELLS // max(1, len(features)))
    picks = np.unique(np.linspace(0, len(rows) - 1, num=min(limit, len(rows))).astype(np.int64))
    rows, goal = rows[picks], goal[picks]
    notices = []
    for feature, cells in _sampled(groups, features, rows):
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


@dataclass(frozen=True, slots=True)
class _RowGroup:
    path: Path
    index: int
    first_row: int
    end_row: int


def _row_groups(paths: Sequence[Path]) -> list[_RowGroup]:
    """At most 40 row groups of the parts, evenly spaced."""
    found: list[_RowGroup] = []
    row = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                end = row + file.metadata.row_group(index).num_rows
                found.append(_RowGroup(path, index, row, end))
                row = end
    picks = np.unique(np.linspace(0, len(found) - 1, _SAMPLE_GROUPS).astype(np.int64))
    return [found[i] for i in picks] if len(found) > _SAMPLE_GROUPS else found


def _within(groups: Sequence[_RowGroup], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places in `rows` of those that are in one of the groups."""
    pieces = [np.arange(*np.searchsorted(rows, [g.first_row, g.end_row])) for g in groups]
    return np.concatenate(pieces)


def _sampled(
    groups: Sequence[_RowGroup], features: Sequence[Column], rows: npt.NDArray[np.int64]
) -> Iterator[tuple[Column, Array]]:
    """The features' cells of these rows of the groups: floats, or integer codes of strings."""
    if not features:
        return
    names = [f.name for f in features]
    pieces: list[Any] = []
    for group in groups:
        low, high = np.searchsorted(rows, [group.first_row, group.end_row])
        if high > low:
            with pq.ParquetFile(group.path) as file:
                table = file.read_row_group(group.index, columns=names, use_threads=False)
            pieces.append(table.select(names).take(pa.array(rows[low:high] - group.first_row)))
    table = pa.concat_tables(pieces)
    for feature in features:
        column = pa.concat_arrays(table.column(feature.name).chunks)
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
