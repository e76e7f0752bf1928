"""String columns: each value has a row of numbers, unseen and missing values have theirs.

`ordinal`: its place by frequency. `onehot`: a column for each value. `target`: the smoothed mean of
the training target where it stands, with its place and its frequency where asked; training rows get
what other inner parts say, so that nothing of a row's own target is in its features. `frequency`:
the logarithm of how often it stands. `target_onehot`: one-hot for columns with few values, target
for those with more. The last three are centred and scaled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from allotment_learn.features import Coded
from allotment_learn.preparation.components import unknown_component
from allotment_learn.preparation.encoding import encode_target, standardised
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.task import Floats, Integers
from allotment_search.pipeline import Component


class CategoryBlock(Protocol):
    """One string column as a fold reads it."""

    @property
    def column(self) -> str: ...

    @property
    def values(self) -> tuple[str, ...]:
        """The values with codes 0, 1, ...; then comes "other", then missing."""
        ...

    @property
    def width(self) -> int: ...

    def rows_of(self, codes: Integers) -> Floats:
        """What stands in the matrix for each code, [codes, width]."""
        ...


def codes_of(known: Sequence[str], values: Sequence[str]) -> Integers:
    """Each value's place in `known`; one behind them is "other", two missing."""
    places = {value: code for code, value in enumerate(known)}
    places[""] = len(known) + 1
    return np.array([places.get(value, len(known)) for value in values], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """Codes by frequency. One-hot: a column for each code. Else one column with the code."""

    column: str
    values: tuple[str, ...]
    onehot: bool

    @property
    def width(self) -> int:
        return len(self.values) + 2 if self.onehot else 1

    def rows_of(self, codes: Integers) -> Floats:
        if not self.onehot:
            return codes.astype(np.float64)[:, None]
        rows: Floats = (codes[:, None] == np.arange(self.width)).astype(np.float64)
        return rows

    def transform(self, coded: Coded) -> Floats:
        return transformed(self, coded)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedCategories:
    """`rows` [values + 2, width]: what stands for each value, for others, for missing."""

    column: str
    values: tuple[str, ...]
    rows: Floats

    @property
    def width(self) -> int:
        return int(self.rows.shape[1])

    def rows_of(self, codes: Integers) -> Floats:
        return self.rows[codes]


def transformed(block: CategoryBlock, coded: Coded) -> Floats:
    """The block's part of the matrix for a column's cells."""
    return block.rows_of(codes_of(block.values, coded.values))[coded.codes]


def fit_column(
    component: Component, name: str, labelled: Labelled
) -> tuple[CategoryBlock, Floats] | None:
    """The fitted block and the training rows' part of the matrix; None when they have no value."""
    coded = labelled.features.strings[name]
    params = component.params
    if component.name in ("ordinal", "onehot"):
        plain = fit_categories(component, name, coded)
        return None if plain is None else (plain, transformed(plain, coded))
    if component.name not in ("target", "frequency", "target_onehot"):
        raise unknown_component("category", component.name)
    values = frequent_values(coded, params)
    if values is None:
        return None
    if component.name == "target_onehot" and len(values) <= int(params.get("onehot_below", 12)):
        few = Categories(name, tuple(values), onehot=True)
        return few, transformed(few, coded)
    codes = codes_of(values, coded.values)[coded.codes]
    tables: list[Floats] = []
    columns: list[Floats] = []
    if component.name != "frequency":
        smoothing = float(params.get("smoothing", 10.0))
        encoded = encode_target(codes, len(values) + 2, labelled, smoothing)
        means = standardised(*encoded)
        tables.append(means[0])
        columns.append(means[1])
    if component.name == "frequency" or params.get("frequency", False):
        table = _log_counts(codes, len(values), coded)
        counted = standardised(table, table[codes])
        tables.append(counted[0])
        columns.append(counted[1])
    if params.get("codes", component.name == "frequency"):
        tables.append(np.arange(len(values) + 2, dtype=np.float64)[:, None])
        columns.append(codes.astype(np.float64)[:, None])
    block = EncodedCategories(name, tuple(values), np.concatenate(tables, axis=1))
    return block, np.concatenate(columns, axis=1)


def _log_counts(codes: Integers, known: int, coded: Coded) -> Floats:
    """log(1 + rows) by code; "other" has the mean of the values that are others."""
    counts = np.bincount(codes, minlength=known + 2).astype(np.float64)
    others = len(np.unique(coded.codes[codes == known]))
    counts[known] /= max(1, others)
    return np.log1p(counts)[:, None]


def fit_categories(component: Component, name: str, coded: Coded) -> Categories | None:
    """`ordinal` or `onehot`; None when the training rows have no value."""
    if component.name not in ("ordinal", "onehot"):
        raise unknown_component("category", component.name)
    frequent = frequent_values(coded, component.params)
    if frequent is None:
        return None
    onehot = component.name == "onehot"
    if onehot:
        frequent = frequent[: int(component.params.get("max_categories", 50))]
    return Categories(name, tuple(frequent), onehot)


def frequent_values(
    coded: Coded, params: Mapping[str, str | float | int | bool]
) -> list[str] | None:
    """Values of at least `min_count` training rows, most frequent first; None: there is no
    value."""
    counts = np.bincount(coded.codes, minlength=len(coded.values))
    least = max(1, int(params.get("min_count", 1)))
    there = [(-int(n), value) for n, value in zip(counts, coded.values, strict=True) if n and value]
    if not there:
        return None
    return [value for count, value in sorted(there) if -count >= least]
