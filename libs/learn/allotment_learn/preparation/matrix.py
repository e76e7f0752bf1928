"""The whole preparation of a fold."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from allotment_learn.features import Features
from allotment_learn.preparation.categories import CategoryBlock, fit_column, transformed
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.preparation.numbers import Numbers, fit_numbers
from allotment_learn.task import Floats
from allotment_search.pipeline import Component


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """The matrix: numbers first, then the string columns in the table's order."""

    numbers: Numbers
    categories: tuple[CategoryBlock, ...] = ()

    @property
    def width(self) -> int:
        return self.numbers.width + sum(block.width for block in self.categories)

    def transform(self, features: Features) -> Floats:
        """float64 [rows, width]; C-contiguous."""
        blocks = [self.numbers.transform(features.numbers)]
        blocks.extend(
            transformed(block, features.strings[block.column]) for block in self.categories
        )
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """`matrix` holds the training rows: what looks at the target is out of inner folds there, and
    so is not what `preparation.transform` would give."""

    preparation: Preparation
    matrix: Floats


def fit_preparation(components: Mapping[str, Component], labelled: Labelled) -> Prepared:
    """Raises: InvalidArgument for a component or parameter that is not known here."""
    train = labelled.features
    numbers = fit_numbers(components.get("numeric", Component("native", {})), train.numbers)
    blocks = [numbers.transform(train.numbers)]
    category = components.get("category", Component("ordinal", {}))
    categories = []
    for name in train.strings:
        fitted = fit_column(category, name, labelled)
        if fitted is not None:
            categories.append(fitted[0])
            blocks.append(fitted[1])
    matrix = np.ascontiguousarray(np.concatenate(blocks, axis=1))
    return Prepared(Preparation(numbers, tuple(categories)), matrix)
