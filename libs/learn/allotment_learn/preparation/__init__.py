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
from allotment_learn.preparation.crosses import Cross, CrossSide, fit_crosses
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
from allotment_learn.preparation.pairs import Derived, Operation, Pair, Turn, fit_pairs
from allotment_learn.preparation.text import (
    Projected,
    TextBlock,
    TfIdf,
    Vocabulary,
    WordCounts,
    fit_text,
)

__all__ = [
    "LARGEST_NATIVE",
    "Categories",
    "CategoryBlock",
    "Cross",
    "CrossSide",
    "Derived",
    "EncodedCategories",
    "ImputedNumbers",
    "Labelled",
    "NativeNumbers",
    "Numbers",
    "Operation",
    "Pair",
    "Preparation",
    "Prepared",
    "Projected",
    "TextBlock",
    "TfIdf",
    "Turn",
    "Vocabulary",
    "WordCounts",
    "codes_of",
    "fit_categories",
    "fit_crosses",
    "fit_numbers",
    "fit_pairs",
    "fit_preparation",
    "fit_text",
    "thresholds_in_source",
]
