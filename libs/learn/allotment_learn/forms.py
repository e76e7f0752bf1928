"""A fitted model as numbers: what a graph is written from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy.typing as npt

from allotment_learn.networks.spec import Arrays, NetworkSpec
from allotment_learn.task import Floats
from allotment_learn.trees import Trees


class Link(Enum):
    """From a model's raw outputs to its predictions."""

    IDENTITY = "identity"
    COMPLEMENT = "complement"
    """One output p, the second class's probability: [1 - p, p]."""
    SIGMOID = "sigmoid"
    """One output, the second class's log-odds."""
    SOFTMAX = "softmax"


@dataclass(frozen=True, slots=True, eq=False)
class ConstantForm:
    """The same prediction for every row, [outputs]."""

    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class LinearForm:
    """matrix @ weights + intercept; weights [width, outputs]."""

    weights: Floats
    intercept: Floats
    link: Link


@dataclass(frozen=True, slots=True, eq=False)
class TreesForm:
    """(base + sum of the leaves' values) / divisor; base [outputs].

    `single_precision`: the matrix is rounded to float32 before it is compared. `zero_within`:
    values that are not further from 0 count as 0; 0 where that does not happen.
    """

    trees: Trees
    base: Floats
    divisor: float
    single_precision: bool
    link: Link
    zero_within: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class NetworkForm:
    """`arrays`, in single precision, are taken as doubles; so are the sums."""

    spec: NetworkSpec
    arrays: Arrays
    link: Link


Form = ConstantForm | LinearForm | TreesForm | NetworkForm
Saved = Mapping[str, npt.NDArray[Any]]
"""A fitted model of a family as named arrays of plain numbers: its family's `restore` makes the
same model of them, bit by bit."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """`predict` is the source library's own: [rows, classes that were there] or [rows, 1]."""

    predict: Callable[[Floats], Floats]
    form: Form
    save: Callable[[], Saved] | None = None
    """None: such a model is fitted again where it is needed once more."""
