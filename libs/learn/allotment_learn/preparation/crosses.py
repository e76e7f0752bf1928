"""Two string columns as one: each pair of their values has the smoothed mean of the target."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from allotment_learn.features import Features
from allotment_learn.preparation.categories import codes_of, frequent_values
from allotment_learn.preparation.components import unknown_component
from allotment_learn.preparation.encoding import encode_target, explained, standardised
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.task import Floats, Integers
from allotment_search.pipeline import Component

CANDIDATE_LIMIT = 8
"""Columns that are crossed: those that say most of the target by themselves."""
VALUE_LIMIT = 64
"""Values of a column that are told apart in a cross, the most frequent ones."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossSide:
    """A column with the values that are told apart; others and missing come behind them."""

    column: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.values) + 2

    def codes(self, features: Features) -> Integers:
        coded = features.strings[self.column]
        return codes_of(self.values, coded.values)[coded.codes]


@dataclass(frozen=True, slots=True, eq=False)
class Cross:
    """`rows` [left.size x right.size, width]: the row of (left, right) is left x right.size +
    right."""

    left: CrossSide
    right: CrossSide
    rows: Floats

    @property
    def width(self) -> int:
        return int(self.rows.shape[1])

    def transform(self, features: Features) -> Floats:
        return self.rows[_joint(self.left, self.right, features)]


def _joint(left: CrossSide, right: CrossSide, features: Features) -> Integers:
    return left.codes(features) * right.size + right.codes(features)


def fit_crosses(component: Component, labelled: Labelled) -> list[tuple[Cross, Floats]]:
    """`none`, or `crosses`: the `count` ones that say more of the target out of fold than each of
    their two columns. With the training rows' part of the matrix."""
    if component.name == "none":
        return []
    if component.name != "crosses":
        raise unknown_component("crosses", component.name)
    smoothing = float(component.params.get("smoothing", 10.0))
    features = labelled.features
    sides = []
    for name, coded in features.strings.items():
        values = frequent_values(coded, {})
        if values is not None and len(values) > 1:
            side = CrossSide(name, tuple(values[:VALUE_LIMIT]))
            _, columns = encode_target(side.codes(features), side.size, labelled, smoothing)
            sides.append((explained(columns, labelled), side))
    sides.sort(key=lambda pair: -pair[0])
    found = []
    for (of_left, left), (of_right, right) in combinations(sides[:CANDIDATE_LIMIT], 2):
        codes = _joint(left, right, features)
        table, columns = encode_target(codes, left.size * right.size, labelled, smoothing)
        gain = explained(columns, labelled) - max(of_left, of_right)
        if gain > 0:
            rows, matrix = standardised(table, columns)
            found.append((gain, Cross(left, right, rows), np.ascontiguousarray(matrix)))
    found.sort(key=lambda entry: -entry[0])
    return [(cross, matrix) for _, cross, matrix in found[: int(component.params.get("count", 3))]]
