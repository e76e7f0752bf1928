"""Rows that graphs get wrong most easily: missing, unseen, at thresholds, extreme."""

from collections.abc import Mapping, Sequence

import numpy as np

from allotment_learn.features import NumberSource
from allotment_learn.folds import FoldModel
from allotment_learn.forms import TreesForm
from allotment_learn.preparation import thresholds_in_source
from allotment_learn.reference import (
    COLUMN_LIMIT,
    EXTREMES,
    LONGEST_CELL,
    THRESHOLDS_PER_COLUMN,
    UNSEEN,
    VALIDATION_ROW_LIMIT,
    ReferenceRows,
    RowKind,
)
from allotment_learn.table import Array, Column, ColumnKind, Table
from allotment_learn.task import Floats, Integers

Cell = float | str
Change = Mapping[str, Cell]

NODES_PER_MODEL = 20_000
QUIRK_DATES = ("0001-01-01", "9999-12-31", "2000-02-30", "1900-02-29", "not a date", "0000-00-00")


def reference_rows(
    table: Table,
    validated: Integers,
    sources: Sequence[NumberSource],
    models: Sequence[FoldModel],
    rng: np.random.Generator,
) -> ReferenceRows:
    """At most VALIDATION_ROW_LIMIT validated rows as they are, then rows made of them by changing
    cells."""
    usable = validated[_short_enough(table, validated)]
    # A table whose every row has a huge cell: its cells are cut by the caller's own rules
    # elsewhere.
    chosen = usable if len(usable) else validated[:1]
    if len(chosen) > VALIDATION_ROW_LIMIT:
        chosen = np.sort(rng.choice(chosen, VALIDATION_ROW_LIMIT, replace=False))
    changes = _changes(table.columns, sources, models, rng)
    bases = rng.choice(chosen, len(changes))
    made = table.take(bases)
    arrays: dict[str, Array] = {name: array.copy() for name, array in made.arrays.items()}
    for row, (_, change) in enumerate(changes):
        for name, cell in change.items():
            arrays[name][row] = cell
    plain = table.take(chosen)
    joined = {name: np.concatenate([plain.arrays[name], arrays[name]]) for name in arrays}
    kinds = [RowKind.VALIDATION] * len(chosen) + [kind for kind, _ in changes]
    rows = np.concatenate([chosen, np.full(len(changes), -1)])
    return ReferenceRows(Table.of(table.columns, joined, len(kinds)), tuple(kinds), rows)


def _short_enough(table: Table, rows: Integers) -> np.ndarray:
    fine = np.ones(len(rows), dtype=np.bool_)
    for column, cells in table:
        if column.type is not ColumnKind.NUMERIC:
            # A NUL at a cell's end would be lost in numpy's strings.
            fine &= np.array(
                [len(cell) <= LONGEST_CELL and "\0" not in cell for cell in cells[rows]]
            )
    return fine


def _changes(
    columns: Sequence[Column],
    sources: Sequence[NumberSource],
    models: Sequence[FoldModel],
    rng: np.random.Generator,
) -> list[tuple[RowKind, Change]]:
    chosen = [columns[index] for index in _spread(len(columns), COLUMN_LIMIT)]
    strings = [column for column in columns if column.type is not ColumnKind.NUMERIC]
    changes: list[tuple[RowKind, Change]] = [
        (RowKind.MISSING, {column.name: _missing(column) for column in columns}),
        (RowKind.UNSEEN, {column.name: UNSEEN for column in strings}),
    ]
    for column in chosen:
        changes.append((RowKind.MISSING, {column.name: _missing(column)}))
        if column.type is ColumnKind.NUMERIC:
            changes.append((RowKind.EXTREME, {column.name: float(rng.choice(EXTREMES))}))
            continue
        changes.append((RowKind.UNSEEN, {column.name: UNSEEN}))
        if column.type is ColumnKind.DATE:
            changes.extend((RowKind.EXTREME, {column.name: day}) for day in QUIRK_DATES)
    numbers = [column.name for column in columns if column.type is ColumnKind.NUMERIC]
    changes.extend(
        (RowKind.EXTREME, {name: value for name in numbers}) for value in EXTREMES if numbers
    )
    thresholds = _thresholds(models, rng)
    for name in (column.name for column in chosen if column.type is ColumnKind.NUMERIC):
        values = thresholds.get(sources.index(NumberSource(name)), np.empty(0))
        for value in rng.permutation(values)[:THRESHOLDS_PER_COLUMN]:
            changes.extend((RowKind.THRESHOLD, {name: near}) for near in neighbours(float(value)))
    return changes


def _spread(count: int, limit: int) -> Sequence[int]:
    if count <= limit:
        return range(count)
    return [int(index) for index in np.linspace(0, count - 1, limit)]


def _missing(column: Column) -> Cell:
    return float("nan") if column.type is ColumnKind.NUMERIC else ""


def neighbours(threshold: float) -> list[float]:
    """The value, and one step up and down in double and in single precision."""
    steps = [
        threshold,
        float(np.nextafter(threshold, np.inf)),
        float(np.nextafter(threshold, -np.inf)),
    ]
    if abs(threshold) < 3e38:
        single = np.float32(threshold)
        above = float(np.nextafter(single, np.float32(np.inf)))
        # Where rounding to single precision changes its mind.
        middle = (float(single) + above) / 2
        steps += [float(single), above, middle, float(np.nextafter(middle, -np.inf))]
    return steps


def _thresholds(models: Sequence[FoldModel], rng: np.random.Generator) -> dict[int, Floats]:
    """Distinct thresholds of a sample of the nodes, by column of the features' matrix."""
    places: list[Integers] = [np.empty(0, dtype=np.int64)]
    values: list[Floats] = [np.empty(0)]
    for model in models:
        form = model.fitted.form
        if not isinstance(form, TreesForm):
            continue
        nodes = rng.integers(form.trees.node_count, size=NODES_PER_MODEL)
        nodes = np.unique(nodes[form.trees.left[nodes] >= 0])
        of_model = thresholds_in_source(
            model.preparation.numbers, form.trees.feature[nodes], form.trees.threshold[nodes]
        )
        places.append(of_model[0])
        values.append(of_model[1])
    place, value = np.concatenate(places), np.concatenate(values)
    place, value = place[np.isfinite(value)], value[np.isfinite(value)]
    return {int(index): np.unique(value[place == index]) for index in np.unique(place)}
