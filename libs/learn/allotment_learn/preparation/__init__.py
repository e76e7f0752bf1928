"""From features to the matrix that a model takes, with every fitted number in plain sight.

Each component here has its twin in `graph/preparation`: the same steps in the same order, in double
precision, so that graph and library see the same bits.
"""

from allotment_learn.preparation.categories import (
    Categories,
    CategoryBlock,
    EncodedCategories,
    codes_of,
    fit_categories,
)
from allotment_learn.preparation.labelled import Labelled
from allotment_learn.preparation.matrix import Preparation, Prepared, fit_preparation
from allotment_learn.preparation.numbers import (
    LARGEST_NATIVE,
    ImputedNumbers,
    NativeNumbers,
    Numbers,
    fit_numbers,
    thresholds_in_source,
)

__all__ = [
    "LARGEST_NATIVE",
    "Categories",
    "CategoryBlock",
    "EncodedCategories",
    "ImputedNumbers",
    "Labelled",
    "NativeNumbers",
    "Numbers",
    "Preparation",
    "Prepared",
    "codes_of",
    "fit_categories",
    "fit_numbers",
    "fit_preparation",
    "thresholds_in_source",
]
