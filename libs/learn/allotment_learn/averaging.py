"""What the models of a trial's folds predict together.

Probabilities are averaged by their logarithms, then scaled to sum to 1. As with the plain mean the
log loss is at most the mean of the folds' losses (the scale is at most 1), but a confidence that
the folds share is kept.
"""

from collections.abc import Sequence

import numpy as np

from allotment_learn.kinds import Floats, TaskKind

FLOOR = 1e-6
"""Smaller probabilities count as this much: one fold alone can't rule a class out."""


def average(predictions: Sequence[Floats], task: TaskKind) -> Floats:
    """[rows, classes], or [rows, 1]. Those of a single model stay as they are."""
    if len(predictions) == 1:
        return predictions[0]
    count = float(len(predictions))
    if task is TaskKind.REGRESSION:
        return np.asarray(_sum(predictions) / count)
    logs = _sum([np.log(np.maximum(p, FLOOR)) for p in predictions]) / count
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _sum(parts: Sequence[Floats]) -> Floats:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
