"""Rows that graphs get wrong most easily: missing, unseen, at thresholds, extreme."""

from collections.abc import Mapping, Sequence

import numpy as np

from allotment_learn.features import NumberSource
from allotment_learn.folds import FoldModel
from allotment_learn.forms import TreesForm
from allotment_learn.preparation import Pair, thresholds_in_source
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
PAIR_ROW_LIMIT = 400
QUIRK_TEXTS = (
    " ",
    "\n",
    "None none NONE",
    "a  b\n\n\n\nc",
    "\u0130 \u00df \u03a3\u03a3 e\u0301",
    "ha " * 300,
)
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
    changes += _text_changes(table, chosen, rng) + _pair_changes(
        table, chosen, sources, models, rng
    )
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
    for column in table.columns:
        if column.type is ColumnKind.TEXT:
            long = np.array([len(cell) > LONGEST_CELL for cell in joined[column.name]], dtype=bool)
            cut = [cell[:LONGEST_CELL] for cell in joined[column.name]]
            joined[column.name] = np.array(cut, dtype=np.object_)
            rows = np.where(long, -1, rows)
    return ReferenceRows(Table.of(table.columns, joined, len(kinds)), tuple(kinds), rows)


def _short_enough(table: Table, rows: Integers) -> np.ndarray:
    fine = np.ones(len(rows), dtype=np.bool_)
    for column, cells in table:
        if column.type is not ColumnKind.NUMERIC:
            limit = np.inf if column.type is ColumnKind.TEXT else LONGEST_CELL
            # A NUL at a cell's end would be lost in numpy's strings.
            fine &= np.array([len(cell) <= limit and "\0" not in cell for cell in cells[rows]])
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


def _text_changes(
    table: Table, rows: Integers, rng: np.random.Generator
) -> list[tuple[RowKind, Change]]:
    """Cells of text columns in other spellings and spacings."""
    changes: list[tuple[RowKind, Change]] = []
    for column, cells in table:
        if column.type is not ColumnKind.TEXT:
            continue
        cell = str(cells[rng.choice(rows)])
        spelt = [cell.upper(), cell.title(), cell.replace(" ", "  "), cell.replace(" ", "\n")]
        spelt += [cell + "!", " " + cell + " ", cell.replace(" ", ", "), cell + " " + cell]
        changes += [(RowKind.EXTREME, {column.name: text}) for text in (*spelt, *QUIRK_TEXTS)]
    return changes


def _pair_changes(
    table: Table,
    rows: Integers,
    sources: Sequence[NumberSource],
    models: Sequence[FoldModel],
    rng: np.random.Generator,
) -> list[tuple[RowKind, Change]]:
    """Cells of two numeric columns whose pair lies around a threshold; and nothing divided by
    nothing."""
    changes: list[tuple[RowKind, Change]] = []
    for model in models:
        thresholds = _thresholds([model], rng)
        for at, pair in enumerate(model.preparation.derived):
            if not isinstance(pair, Pair) or sources[pair.left].part or sources[pair.right].part:
                continue
            left, right = sources[pair.left].column, sources[pair.right].column
            changes.append((RowKind.EXTREME, {left: 0.0, right: 0.0}))
            values = thresholds.get(len(sources) + at, np.empty(0))
            for value in rng.permutation(values)[:THRESHOLDS_PER_COLUMN]:
                beside = float(table.arrays[right][rng.choice(rows)])
                solved = pair.left_for(float(value), beside)
                changes.extend(
                    (RowKind.THRESHOLD, {left: near, right: beside})
                    for near in (neighbours(solved) if np.isfinite(solved) else ())
                )
    if len(changes) > PAIR_ROW_LIMIT:
        kept = np.sort(rng.choice(len(changes), PAIR_ROW_LIMIT, replace=False))
        changes = [changes[index] for index in kept]
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
