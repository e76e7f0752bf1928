"""Class shares, or the best single number for the metric."""

import numpy as np

from allotment_learn.families.training import Training
from allotment_learn.forms import ConstantForm, Fitted
from allotment_learn.task import Floats


def fit(training: Training) -> Fitted:
    weights = training.weights if training.weights is not None else np.ones(len(training.target))
    if training.class_count:
        counts = np.bincount(training.target.astype(np.int64), weights, training.class_count)
        return always(counts / counts.sum())
    if training.metric == "mae":
        return always(np.array([_median(training.target.astype(np.float64), weights)]))
    return always(np.array([np.average(training.target, weights=weights)]))


def always(values: Floats) -> Fitted:
    """A model that knows one answer."""
    return Fitted(lambda matrix: np.tile(values, (len(matrix), 1)), ConstantForm(values))


def _median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
