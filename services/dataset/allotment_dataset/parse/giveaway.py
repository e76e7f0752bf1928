"""Does one column alone tell the target almost perfectly?

Rows are halved by turns; a lookup table of the column's values (numbers in at most 64 bins of
equal frequency) is learnt on one half and judged on the other.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 64
_LEAST_ROWS = 50
_MOST_TABLE_CELLS = 20_000_000
_ACCURACY = 0.99
_AUC = 0.99
_R2 = 0.999
_ERROR_SHARE = 0.1
"""Of the error of the most frequent class: with 99.5 % of one class, 99.5 % accuracy is no sign."""

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def gives_away(column: Array, goal: Array, *, regression: bool) -> str:
    """How well the column tells the goal, as text ("AUC 0.999"), when it does so almost perfectly;
    else "".

    `column`: floats (NaN = missing) or integer codes. `goal`: floats, or class indexes from 0.
    """
    if len(goal) < _LEAST_ROWS:
        return ""
    if regression:
        return _regression(column, goal)
    return _classification(_bins(column), goal.astype(np.int64))


def _bins(column: Array) -> Codes:
    if column.dtype != np.float64:
        return column.astype(np.int64)
    present = ~np.isnan(column)
    values = np.unique(column[present])
    if len(values) > _BINS:
        ordered = np.sort(column[present][::2])
        places = np.linspace(0, len(ordered) - 1, _BINS + 1).astype(np.int64)[1:-1]
        values = np.unique(ordered[places])
    codes = np.searchsorted(values, column, side="right") + 1
    codes[~present] = 0
    return np.asarray(codes, dtype=np.int64)


def _classification(bins: Codes, goal: Codes) -> str:
    class_count, bin_count = int(goal.max()) + 1, int(bins.max()) + 1
    if class_count * bin_count > _MOST_TABLE_CELLS:
        return ""
    counts = np.bincount(bins[::2] * class_count + goal[::2], minlength=bin_count * class_count)
    table = counts.reshape(bin_count, class_count)
    prior = table.sum(axis=0)
    seen = table.sum(axis=1) > 0
    best = np.where(seen, table.argmax(axis=1), prior.argmax())
    tested, truth = bins[1::2], goal[1::2]
    accuracy = float((best[tested] == truth).mean())
    plain = float((truth == prior.argmax()).mean())
    if accuracy > _ACCURACY and 1 - accuracy <= _ERROR_SHARE * (1 - plain):
        return f"accuracy {accuracy:.4f}"
    if class_count == 2:
        smooth = (table[:, 1] + prior[1] / prior.sum()) / (table.sum(axis=1) + 1)
        auc = _auc(smooth[tested], truth)
        if auc > _AUC:
            return f"AUC {auc:.4f}"
    return ""


def _auc(scores: Floats, truth: Codes) -> float:
    """Area under the ROC curve with ties counted half."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return 0.5
    rank_sum = float(_ranks(scores)[truth == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = ends - (counts - 1) / 2
    return np.asarray(mean_rank[inverse], dtype=np.float64)


def _regression(column: Array, goal: Floats) -> str:
    if column.dtype == np.float64:
        present = np.isfinite(column)
        if present.mean() < 0.9:
            return ""
        x, y = column[present], goal[present]
        r2 = max(_correlation(x, y), _correlation(_ranks(x), _ranks(y))) ** 2
        return f"R2 {r2:.4f}" if r2 > _R2 else ""
    totals = np.bincount(column[::2], weights=goal[::2], minlength=int(column.max()) + 1)
    counts = np.bincount(column[::2], minlength=int(column.max()) + 1)
    mean = float(goal[::2].mean())
    means = np.where(counts > 0, totals / np.maximum(counts, 1), mean)
    truth = goal[1::2]
    spread = float(((truth - truth.mean()) ** 2).sum())
    if spread == 0:
        return ""
    r2 = 1 - float(((truth - means[column[1::2]]) ** 2).sum()) / spread
    return f"R2 {r2:.4f}" if r2 > _R2 else ""


def _correlation(x: Floats, y: Floats) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = x - x.mean(), y - y.mean()
        scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
        value = float((x * y).sum()) / scale if scale > 0 else 0.0
    return abs(value) if np.isfinite(value) else 0.0
