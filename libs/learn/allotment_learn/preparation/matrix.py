"""The whole preparation of a fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from allotment_learn.features import Features
from allotment_learn.preparation.categories import CategoryBlock, fit_column, transformed
from allotment_learn.preparation.crosses import Cross, fit_crosses
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.preparation.numbers import Numbers, fit_numbers
from allotment_learn.preparation.pairs import Derived, extended, fit_pairs, turns
from allotment_learn.preparation.text import TextBlock, fit_text
from allotment_search.pipeline import Component

Matrix = Any
"""float64 [rows, width]: a C-contiguous array, or a CSR matrix where a text block is sparse."""


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """The matrix: numbers (the features' own, then the derived ones), string columns and text
    columns in the table's order, crosses between them."""

    numbers: Numbers
    categories: tuple[CategoryBlock, ...] = ()
    derived: tuple[Derived, ...] = ()
    crosses: tuple[Cross, ...] = ()
    texts: tuple[TextBlock, ...] = ()

    @property
    def width(self) -> int:
        strings = sum(block.width for block in self.categories)
        crosses = sum(cross.width for cross in self.crosses)
        return self.numbers.width + strings + crosses + sum(text.width for text in self.texts)

    def transform(self, features: Features) -> Matrix:
        """What the model takes for these rows."""
        blocks: list[Matrix] = [self.numbers.transform(extended(features.numbers, self.derived))]
        blocks += [transformed(block, features.strings[block.column]) for block in self.categories]
        blocks += [cross.transform(features) for cross in self.crosses]
        blocks += [block.transform(features.texts[block.column].words) for block in self.texts]
        return _joined(blocks)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """`matrix` holds the training rows: what looks at the target is out of inner folds there, and
    so is not what `preparation.transform` would give."""

    preparation: Preparation
    matrix: Matrix


def fit_preparation(components: Mapping[str, Component], labelled: Labelled) -> Prepared:
    """Raises: InvalidArgument for a component or parameter that is not known here."""
    train = labelled.features
    derived: list[Derived] = []
    if components.get("date", Component("drop", {})).name == "cyclic":
        derived += turns(train.sources)
    derived += fit_pairs(components.get("pairs", Component("none", {})), labelled)
    numbers_of_all = extended(train.numbers, derived)
    numbers = fit_numbers(components.get("numeric", Component("native", {})), numbers_of_all)
    blocks: list[Matrix] = [numbers.transform(numbers_of_all)]
    category = components.get("category", Component("ordinal", {}))
    columns = [fit_column(category, name, labelled) for name in train.strings]
    categories = [fitted for fitted in columns if fitted is not None]
    blocks += [matrix for _, matrix in categories]
    crosses = fit_crosses(components.get("crosses", Component("none", {})), labelled)
    blocks += [matrix for _, matrix in crosses]
    text = components.get("text", Component("drop", {}))
    blocks_of_text = [fit_text(text, name, labelled) for name in train.texts]
    texts = tuple(block for block in blocks_of_text if block is not None)
    blocks += [block.transform(train.texts[block.column].words) for block in texts]
    preparation = Preparation(
        numbers,
        tuple(block for block, _ in categories),
        tuple(derived),
        tuple(cross for cross, _ in crosses),
        texts,
    )
    return Prepared(preparation, _joined(blocks))


def _joined(blocks: Sequence[Matrix]) -> Matrix:
    if any(sparse.issparse(block) for block in blocks):
        return sparse.hstack(blocks, format="csr", dtype=np.float64)
    return np.ascontiguousarray(np.concatenate(blocks, axis=1))
