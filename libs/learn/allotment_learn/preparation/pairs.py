"""Numbers made of others before they are imputed or scaled: two columns by one operation, or a part
of a date by its place on a circle.

Each is one operation in double precision, so that graph and library agree to the bit. x / 0 is
missing, as is what a missing value goes into.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np

from allotment_learn.features import NumberSource
from allotment_learn.preparation.components import unknown_component
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.task import Floats, Integers
from allotment_search.pipeline import Component

CANDIDATE_LIMIT = 10
"""Columns that pairs are chosen from: those that say most of the target by themselves."""
JUDGED_ROWS = 3_000
BINS = 16


class Operation(StrEnum):
    """What is made of two columns."""

    PRODUCT = "product"
    DIFFERENCE = "difference"
    RATIO = "ratio"


@dataclass(frozen=True, slots=True)
class Pair:
    """Places of two columns in the numbers, and what is made of them."""

    left: int
    right: int
    operation: Operation

    def values(self, numbers: Floats) -> Floats:
        left, right = numbers[:, self.left], numbers[:, self.right]
        with np.errstate(all="ignore"):
            if self.operation is Operation.PRODUCT:
                return np.asarray(left * right)
            if self.operation is Operation.DIFFERENCE:
                return np.asarray(left - right)
            return np.where(right == 0.0, np.nan, left / right)

    def left_for(self, value: float, right: float) -> float:
        """A left cell that makes about this value with the right one; NaN where none does."""
        with np.errstate(all="ignore"):
            wanted = np.float64(value)
            if self.operation is Operation.PRODUCT:
                return float(wanted / right) if right else float("nan")
            return float(
                wanted + right if self.operation is Operation.DIFFERENCE else wanted * right
            )


@dataclass(frozen=True, slots=True)
class Turn:
    """Sine or cosine (or a flag) of a whole number: `table` has the value for each, from 0 on."""

    source: int
    table: tuple[float, ...]

    def values(self, numbers: Floats) -> Floats:
        column = numbers[:, self.source]
        missing = np.isnan(column)
        places = np.where(missing, 0.0, column).astype(np.int64)
        return np.where(missing, np.nan, np.array(self.table)[places])


Derived = Pair | Turn
_PERIODS = {"month": 12, "weekday": 7, "day_of_year": 366, "hour": 24}


def turns(sources: Sequence[NumberSource]) -> tuple[Turn, ...]:
    """Sine and cosine of the parts of dates that come round, and whether the day is of a
    weekend."""
    made = []
    for place, source in enumerate(sources):
        period = _PERIODS.get(source.part)
        if period is None:
            continue
        made += [Turn(place, table) for table in _circle(period)]
        if source.part == "weekday":
            made.append(Turn(place, (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)))
    return tuple(made)


@cache
def _circle(period: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    angles = 2.0 * np.pi * np.arange(period + 1) / period
    return tuple(np.sin(angles).tolist()), tuple(np.cos(angles).tolist())


def extended(numbers: Floats, derived: Sequence[Derived]) -> Floats:
    """The numbers with the derived columns behind them."""
    if not derived:
        return numbers
    return np.column_stack([numbers, *(column.values(numbers) for column in derived)])


def fit_pairs(component: Component, labelled: Labelled) -> tuple[Pair, ...]:
    """`none`, or `pairs`: the `count` pairs whose result says more of the target than each of its
    two columns; told by means in BINS quantiles of at most JUDGED_ROWS training rows."""
    if component.name == "none":
        return ()
    if component.name != "pairs":
        raise unknown_component("pairs", component.name)
    rows = np.arange(labelled.features.row_count)
    if len(rows) > JUDGED_ROWS:
        rng = np.random.default_rng([labelled.seed, len(rows)])
        rows = np.sort(rng.choice(rows, JUDGED_ROWS, replace=False))
    numbers = labelled.features.numbers[rows]
    outputs = labelled.outputs[rows] - labelled.outputs[rows].mean(axis=0)
    usable = [
        place
        for place, source in enumerate(labelled.features.sources)
        if source.part in ("", "epoch_days")
    ]
    alone = {place: _told(numbers[:, place], outputs) for place in usable}
    best = sorted(usable, key=lambda place: (-alone[place], place))[:CANDIDATE_LIMIT]
    found = []
    for at, left in enumerate(best):
        for right in best[at + 1 :]:
            gain, pair = _best_of(left, right, numbers, outputs)
            gain -= max(alone[left], alone[right])
            if gain > 0:
                found.append((-gain, pair.left, pair.right, pair))
    return tuple(pair for *_, pair in sorted(found)[: int(component.params.get("count", 4))])


def _best_of(left: int, right: int, numbers: Floats, outputs: Floats) -> tuple[float, Pair]:
    pairs = [
        Pair(left, right, Operation.PRODUCT),
        Pair(left, right, Operation.DIFFERENCE),
        Pair(left, right, Operation.RATIO),
        Pair(right, left, Operation.RATIO),
    ]
    told = [_told(pair.values(numbers), outputs) for pair in pairs]
    place = int(np.argmax(told))
    return told[place], pairs[place]


def _told(column: Floats, outputs: Floats) -> float:
    """The share of the (centred) outputs' variance between the column's quantiles."""
    bins = _quantiles(column)
    counts = np.bincount(bins, minlength=BINS + 1)
    sums = np.stack([np.bincount(bins, out, minlength=BINS + 1) for out in outputs.T], axis=1)
    between = (sums**2 / np.maximum(counts, 1)[:, None]).sum()
    total = (outputs**2).sum()
    return float(between / total) if total > 0 else 0.0


def _quantiles(column: Floats) -> Integers:
    """The quantile of each row, equal values in one; missing values have the last number."""
    there = np.flatnonzero(~np.isnan(column))
    bins = np.full(len(column), BINS, dtype=np.int64)
    if len(there):
        values = column[there]
        ordered = np.sort(values)
        edges = ordered[np.arange(1, BINS) * len(ordered) // BINS]
        bins[there] = np.searchsorted(edges, values, side="right")
    return bins
