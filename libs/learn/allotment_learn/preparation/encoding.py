"""What the training rows' target is like where a category stands, by rows other than one's own."""

import numpy as np

from allotment_learn.preparation.labelled import INNER_PARTS, Labelled
from allotment_learn.task import Floats, Integers


def encode_target(
    codes: Integers, count: int, labelled: Labelled, smoothing: float
) -> tuple[Floats, Floats]:
    """The table [count, outputs] of smoothed means by code, and the training rows' columns.

    A mean is (sum + smoothing x prior) / (weight + smoothing): a code without rows has the prior. A
    training row gets the mean that the rows outside its own inner part give (Micci-Barreca 2001,
    formula 4, out of fold).
    """
    outputs, weights = labelled.outputs, labelled.weights
    width = outputs.shape[1]
    sums = np.zeros((INNER_PARTS, count, width))
    masses = np.zeros((INNER_PARTS, count))
    np.add.at(sums, (labelled.parts, codes), outputs * weights[:, None])
    np.add.at(masses, (labelled.parts, codes), weights)
    table = _smoothed(sums.sum(axis=0), masses.sum(axis=0), smoothing)
    columns = np.empty((len(codes), width))
    for part in range(INNER_PARTS):
        inside = labelled.parts == part
        others = np.arange(INNER_PARTS) != part
        of_others = _smoothed(sums[others].sum(axis=0), masses[others].sum(axis=0), smoothing)
        columns[inside] = of_others[codes[inside]]
    return table, columns


def _smoothed(sums: Floats, masses: Floats, smoothing: float) -> Floats:
    total = masses.sum()
    prior = sums.sum(axis=0) / total if total > 0 else np.zeros(sums.shape[1])
    means: Floats = (sums + smoothing * prior) / (masses + smoothing)[:, None]
    return means


def standardised(table: Floats, columns: Floats) -> tuple[Floats, Floats]:
    """Both centred and scaled by the training rows' columns, for models that need it."""
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale <= 1e-12 * np.maximum(1.0, np.abs(centre)), 1.0, scale)
    return (table - centre) / scale, (columns - centre) / scale


def explained(columns: Floats, labelled: Labelled) -> float:
    """The share of the outputs' variance that out-of-fold means explain; below 0: none."""
    weights = labelled.weights[:, None]
    centre = (labelled.outputs * weights).sum(axis=0) / weights.sum()
    spread = float((weights * (labelled.outputs - centre) ** 2).sum())
    left = float((weights * (labelled.outputs - columns) ** 2).sum())
    return 1.0 - left / spread if spread > 0 else 0.0
