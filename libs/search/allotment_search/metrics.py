"""Scores of predictions. Numpy alone; every metric takes weights.

Classification: `truth` int64 class indices, `predictions` [rows, classes] probabilities.
Regression: `truth` float64, `predictions` [rows, 1]. A metric that is not defined for the rows (AUC
of one class) is NaN.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from allotment_core.errors import InvalidArgument, clip

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Truth = Integers | Floats

CLASSIFICATION_METRICS = ("log_loss", "auc", "ap", "accuracy", "f1")
REGRESSION_METRICS = ("rmse", "mae", "r2")
LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
_BINS = 15


def score(
    metric: str,
    truth: Truth,
    predictions: Floats,
    weights: Floats | None = None,
    *,
    positive: int = 1,
) -> float:
    """`positive` is the class that binary AP and F1 are about: the rarer one (`rarer_class`).

    Raises:
        InvalidArgument: there is no such metric.
    """
    weight = np.ones(len(truth)) if weights is None else weights
    if not weight.sum() > 0:
        return float("nan")
    if metric in _REGRESSION:
        return _REGRESSION[metric](truth.astype(np.float64), predictions[:, 0], weight)
    if metric in _CLASSIFICATION:
        return _CLASSIFICATION[metric](truth.astype(np.int64), predictions, weight, positive)
    raise InvalidArgument(
        f"there is no metric '{clip(metric)}'; choose one of "
        f"{', '.join(CLASSIFICATION_METRICS + REGRESSION_METRICS)}",
        reason="NO_SUCH_METRIC",
    )


def rarer_class(truth: Integers) -> int:
    """Of two classes the one with fewer rows; the second when they are equal."""
    return 0 if 2 * np.count_nonzero(truth == 0) < len(truth) else 1


def loss(
    metric: str,
    truth: Truth,
    predictions: Floats,
    weights: Floats | None = None,
    *,
    positive: int = 1,
) -> float:
    """The score turned so that lower is better. Raises: InvalidArgument."""
    value = score(metric, truth, predictions, weights, positive=positive)
    return value if metric in LOWER_IS_BETTER else -value


def scores(
    truth: Truth, predictions: Floats, weights: Floats | None, positive: int, *, classes: bool
) -> dict[str, float]:
    """Every metric that is defined for these rows; for classes the calibration error `ece` too."""
    found = {
        name: score(name, truth, predictions, weights, positive=positive)
        for name in (CLASSIFICATION_METRICS if classes else REGRESSION_METRICS)
    }
    if classes:
        found["ece"] = calibration_error(truth.astype(np.int64), predictions, weights)
    return {name: value for name, value in found.items() if np.isfinite(value)}


def calibration_error(truth: Integers, predictions: Floats, weights: Floats | None = None) -> float:
    """Expected calibration error of the most probable class, in 15 bins of equal width.

    Source: Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using
    Bayesian binning; Guo et al. (2017), On calibration of modern neural networks, formula 3.
    """
    weight = np.ones(len(truth)) if weights is None else weights
    if not weight.sum() > 0:
        return float("nan")
    confidence = predictions.max(axis=1)
    right = predictions.argmax(axis=1) == truth
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=weight * (right - confidence), minlength=_BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def _log_loss(truth: Integers, predictions: Floats, weight: Floats, positive: int) -> float:
    eps = np.finfo(np.float64).eps
    chosen = np.clip(predictions[np.arange(len(truth)), truth], eps, 1 - eps)
    return float(np.average(-np.log(chosen), weights=weight))


def _accuracy(truth: Integers, predictions: Floats, weight: Floats, positive: int) -> float:
    return float(np.average(predictions.argmax(axis=1) == truth, weights=weight))


def _f1(truth: Integers, predictions: Floats, weight: Floats, positive: int) -> float:
    labels = predictions.argmax(axis=1)
    if predictions.shape[1] == 2:
        return _f1_of(truth == positive, labels == positive, weight)
    # Classes that neither occur nor are predicted have no F1.
    there = np.union1d(truth, labels)
    return float(np.mean([_f1_of(truth == c, labels == c, weight) for c in there]))


def _f1_of(is_true: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_], weight: Floats) -> float:
    both = weight[is_true & said].sum()
    total = weight[is_true].sum() + weight[said].sum()
    return float(2 * both / total) if total > 0 else 0.0


def _one_against_rest(
    truth: Integers,
    predictions: Floats,
    weight: Floats,
    positive: int,
    of: Callable[[npt.NDArray[np.bool_], Floats, Floats], float],
) -> float:
    if predictions.shape[1] == 2:
        return of(truth == positive, predictions[:, positive], weight)
    values = [of(truth == c, predictions[:, c], weight) for c in np.unique(truth)]
    return float(np.mean(values))


def _auc(truth: Integers, predictions: Floats, weight: Floats, positive: int) -> float:
    return _one_against_rest(truth, predictions, weight, positive, _auc_of)


def _ap(truth: Integers, predictions: Floats, weight: Floats, positive: int) -> float:
    return _one_against_rest(truth, predictions, weight, positive, _ap_of)


def _steps(
    is_true: npt.NDArray[np.bool_], ranking: Floats, weight: Floats
) -> tuple[Floats, Floats]:
    """Weight of true and of false rows at each distinct value, highest value first."""
    values, place = np.unique(ranking, return_inverse=True)
    true = np.bincount(place, weights=weight * is_true, minlength=len(values))
    false = np.bincount(place, weights=weight * ~is_true, minlength=len(values))
    return true[::-1].astype(np.float64), false[::-1].astype(np.float64)


def _auc_of(is_true: npt.NDArray[np.bool_], ranking: Floats, weight: Floats) -> float:
    true, false = _steps(is_true, ranking, weight)
    if true.sum() == 0 or false.sum() == 0:
        return float("nan")
    above = np.cumsum(true) - true / 2
    return float((false * above).sum() / (true.sum() * false.sum()))


def _ap_of(is_true: npt.NDArray[np.bool_], ranking: Floats, weight: Floats) -> float:
    true, false = _steps(is_true, ranking, weight)
    if true.sum() == 0:
        return float("nan")
    total = np.cumsum(true + false)
    precision = np.divide(np.cumsum(true), total, out=np.zeros_like(total), where=total > 0)
    return float((precision * true).sum() / true.sum())


def _rmse(truth: Floats, predictions: Floats, weight: Floats) -> float:
    return float(np.sqrt(np.average((truth - predictions) ** 2, weights=weight)))


def _mae(truth: Floats, predictions: Floats, weight: Floats) -> float:
    return float(np.average(np.abs(truth - predictions), weights=weight))


def _r2(truth: Floats, predictions: Floats, weight: Floats) -> float:
    mean = np.average(truth, weights=weight)
    spread = float((weight * (truth - mean) ** 2).sum())
    left = float((weight * (truth - predictions) ** 2).sum())
    if spread == 0:
        return 1.0 if left == 0 else 0.0
    return 1 - left / spread


_CLASSIFICATION = {
    "log_loss": _log_loss,
    "auc": _auc,
    "ap": _ap,
    "accuracy": _accuracy,
    "f1": _f1,
}
_REGRESSION = {"rmse": _rmse, "mae": _mae, "r2": _r2}
