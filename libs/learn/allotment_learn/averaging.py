"""What the models of a trial's folds predict together.

Probabilities are averaged by their logarithms, then scaled to sum to 1. As with the plain mean the
log loss is at most the mean of the folds' losses (the scale is at most 1), but a confidence that
the folds share is kept. Folds by group or by time may lack a class in training: it is averaged over
the folds that know it, since the others can't tell. Numbers have the plain mean.
"""

from collections.abc import Sequence

import numpy as np

from allotment_learn.folds import FoldModel
from allotment_learn.kinds import Floats, TaskKind
from allotment_learn.trees import Flags

FLOOR = 1e-6
"""Smaller probabilities count as this much: one fold alone can't rule a class out."""


def known_classes(models: Sequence[FoldModel]) -> Flags:
    """[models, classes]: which classes each model's training rows had."""
    known = np.zeros((len(models), models[0].class_count), dtype=np.bool_)
    for place, model in enumerate(models):
        known[place, list(model.present)] = True
    return known


def average(predictions: Sequence[Floats], task: TaskKind, known: Flags) -> Floats:
    """[rows, classes], or [rows, 1]. Those of a single model stay as they are.

    `known`: as `known_classes` gives it. A class that no model knows gets FLOOR before scaling.
    """
    if len(predictions) == 1:
        return predictions[0]
    if task is TaskKind.REGRESSION:
        return np.asarray(_sum(predictions) / float(len(predictions)))
    logs = _sum(
        [
            np.log(np.maximum(np.where(there, p, unknown_as(known)), FLOOR))
            for p, there in zip(predictions, known, strict=True)
        ]
    )
    mean = logs / divisors(known)
    raised = np.exp(mean - mean.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def unknown_as(known: Flags) -> Floats:
    """What stands in the product for a class that a model doesn't know, [classes]."""
    return np.where(known.any(axis=0), 1.0, FLOOR)


def divisors(known: Flags) -> Floats:
    """How many logarithms are in each class's sum, [classes]."""
    counts = known.sum(axis=0)
    return np.where(counts > 0, counts, len(known)).astype(np.float64)


def _sum(parts: Sequence[Floats]) -> Floats:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
