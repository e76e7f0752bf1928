"""Numbers as a model takes them.

`impute`: missing values become the mean or median of the training rows, values are cut to ten times
the training range beyond its ends (infinities land there too), then centred and scaled where asked;
columns with missing training values may get an indicator. `native`: missing values stay, infinities
become +-1e300. Columns without any training value are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allotment_learn.preparation.components import unknown_component
from allotment_learn.task import Floats, Integers
from allotment_search.pipeline import Component

LARGEST_NATIVE = 1e300
LARGEST_IMPUTED = 1e38
"""Forests compare in single precision, whose largest value is 3.4e38."""
RANGE_MARGIN = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class NativeNumbers:
    """The kept columns as they are."""

    kept: Integers

    @property
    def width(self) -> int:
        return len(self.kept)

    def transform(self, numbers: Floats) -> Floats:
        taken = numbers[:, self.kept]
        return np.clip(taken, -LARGEST_NATIVE, LARGEST_NATIVE)


@dataclass(frozen=True, slots=True, eq=False)
class ImputedNumbers:
    """Arrays by kept column; `indicated` are places in the extended numbers. No scaling: centre
    None."""

    kept: Integers
    fill: Floats
    low: Floats
    high: Floats
    centre: Floats | None
    scale: Floats | None
    indicated: Integers

    @property
    def width(self) -> int:
        return len(self.kept) + len(self.indicated)

    def transform(self, numbers: Floats) -> Floats:
        taken = numbers[:, self.kept]
        filled = np.where(np.isnan(taken), self.fill, taken)
        cut = np.minimum(np.maximum(filled, self.low), self.high)
        if self.centre is not None and self.scale is not None:
            cut = (cut - self.centre) / self.scale
        missing = np.isnan(numbers[:, self.indicated]).astype(np.float64)
        return np.concatenate([cut, missing], axis=1)


Numbers = NativeNumbers | ImputedNumbers


def fit_numbers(component: Component, numbers: Floats) -> Numbers:
    """`numbers`: the training rows."""
    missing = np.isnan(numbers)
    kept = np.flatnonzero(~missing.all(axis=0)) if len(numbers) else np.empty(0, dtype=np.int64)
    if component.name == "native":
        return NativeNumbers(kept)
    if component.name != "impute":
        raise unknown_component("numeric", component.name)
    taken = numbers[:, kept]
    usable = np.where(np.abs(taken) <= LARGEST_IMPUTED, taken, np.nan)
    columns = [_finite(usable[:, index]) for index in range(len(kept))]
    low = np.array([column.min() for column in columns], dtype=np.float64)
    high = np.array([column.max() for column in columns], dtype=np.float64)
    middle = np.mean if component.params.get("strategy", "mean") == "mean" else np.median
    fill = np.array([middle(column) for column in columns], dtype=np.float64)
    span = np.where(high > low, high - low, np.maximum(1.0, np.abs(high)))
    centre, scale = _scaling(str(component.params.get("scale", "none")), columns, fill)
    indicated = kept[missing[:, kept].any(axis=0)]
    return ImputedNumbers(
        kept=kept,
        fill=fill,
        low=np.maximum(low - RANGE_MARGIN * span, -LARGEST_IMPUTED),
        high=np.minimum(high + RANGE_MARGIN * span, LARGEST_IMPUTED),
        centre=centre,
        scale=scale,
        indicated=indicated if component.params.get("indicator", False) else indicated[:0],
    )


def _finite(column: Floats) -> Floats:
    there = column[~np.isnan(column)]
    return there if len(there) else np.zeros(1)


def _scaling(
    name: str, columns: Sequence[Floats], fill: Floats
) -> tuple[Floats | None, Floats | None]:
    if name == "none":
        return None, None
    deviation = np.array([column.std() for column in columns], dtype=np.float64)
    if name == "standard":
        centre = np.array([column.mean() for column in columns], dtype=np.float64)
        scale = deviation
    elif name == "robust":
        quartiles = [np.quantile(column, [0.25, 0.5, 0.75]) for column in columns]
        centre = np.array([middle for _, middle, _ in quartiles], dtype=np.float64)
        spread = np.array([upper - lower for lower, _, upper in quartiles], dtype=np.float64)
        # Mostly one value: quartiles say nothing of the rest. 1.35: of a normal distribution.
        scale = np.where(spread > 0, spread / 1.35, deviation)
    else:
        raise unknown_component("scale", name)
    # Rounding alone gives a constant column a tiny deviation.
    flat = scale <= 1e-12 * np.maximum(1.0, np.abs(centre))
    return centre, np.where(flat, 1.0, scale)


def thresholds_in_source(
    numbers: Numbers, places: npt.NDArray[np.int64], thresholds: Floats
) -> tuple[Integers, Floats]:
    """Split thresholds of matrix columns as values of the extended numbers.

    `places`: columns of the matrix that the model takes. Those that are no numbers are left out.
    The first array has places in the extended numbers.
    """
    of_number = places < len(numbers.kept)
    chosen, values = places[of_number], thresholds[of_number]
    if isinstance(numbers, ImputedNumbers) and numbers.centre is not None:
        assert numbers.scale is not None
        values = values * numbers.scale[chosen] + numbers.centre[chosen]
    return numbers.kept[chosen], values
