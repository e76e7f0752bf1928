"""One temperature for all probabilities, fitted on rows that the model was not fitted on.

Source: Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, section 4.2.
"""

import numpy as np

from allotment_search import metrics
from allotment_search.metrics import Floats, Integers

TEMPERATURES = (0.25, 4.0)
_EPS = float(np.finfo(np.float64).eps)
_CELL_LIMIT = 100_000
_SHUFFLE_SEED = 2017
_PARTS = 5
_FEWEST_ROWS = 20
_ITERATIONS = 15
_AVERAGING = 0.94
"""The best temperature of the mean of eight folds over that of their out-of-fold predictions:
0.89 to 0.96 for trees and boosting, measured on rows that no fold saw."""


def calibrated(probabilities: Floats, temperature: float) -> Floats:
    """p^(1 / temperature), scaled to sum to 1."""
    raised = np.power(probabilities, 1 / temperature)
    shares: Floats = raised / raised.sum(axis=1, keepdims=True)
    return shares


def choose_temperature(
    probabilities: Floats, truth: Integers, weights: Floats, *, averaged: bool = False
) -> float | None:
    """The temperature of the least log loss; None where that does not help rows left out of it.

    ``averaged``: what is served is the mean of several such models, and softer than each: of a
    temperature that softens only what lies beyond the usual effect of averaging is kept.
    """
    count, width = probabilities.shape
    limit = max(1_000, _CELL_LIMIT // width)
    places = np.random.default_rng(_SHUFFLE_SEED).permutation(count)[:limit]
    if len(places) < _FEWEST_ROWS or not weights[places].sum() > 0:
        return None
    logs = np.log(probabilities[places].clip(_EPS, 1.0))
    said, known, weight = probabilities[places], truth[places], weights[places]
    after = np.empty_like(said)
    for part in np.array_split(np.arange(len(places)), _PARTS):
        others = np.ones(len(places), dtype=np.bool_)
        others[part] = False
        if not weight[others].sum() > 0:
            return None
        found = _served(_fit(logs[others], known[others], weight[others]), averaged=averaged)
        after[part] = calibrated(said[part], found)
    if not _log_loss(known, after, weight) < _log_loss(known, said, weight):
        return None
    temperature = _served(_fit(logs, known, weight), averaged=averaged)
    better = _log_loss(known, calibrated(said, temperature), weight) < _log_loss(
        known, said, weight
    )
    return temperature if better else None


def _served(temperature: float, *, averaged: bool) -> float:
    return max(1.0, temperature * _AVERAGING) if averaged and temperature > 1 else temperature


def _log_loss(truth: Integers, probabilities: Floats, weights: Floats) -> float:
    return metrics.score("log_loss", truth, probabilities, weights)


def _fit(logs: Floats, truth: Integers, weights: Floats) -> float:
    """Newton's method in 1 / temperature, in which the loss is convex, within a bracket."""
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    true = logs[np.arange(len(truth)), truth]
    inverse = 1.0
    for _ in range(_ITERATIONS):
        raised = np.exp(logs * inverse)
        shares = raised / raised.sum(axis=1, keepdims=True)
        mean = (shares * logs).sum(axis=1)
        spread = (shares * logs**2).sum(axis=1) - mean**2
        slope, bend = float(((mean - true) * weights).sum()), float((spread * weights).sum())
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / bend if bend > 0 else -1.0
        following = step if low <= step <= high else (low + high) / 2
        if abs(following - inverse) < 1e-6:
            break
        inverse = following
    return 1 / inverse
