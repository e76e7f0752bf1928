"""Scores of a task's predictions; the formulas are `allotment_search.metrics`."""

from allotment_learn.kinds import Floats
from allotment_learn.kinds import TaskKind as TaskKind
from allotment_search.metrics import (
    CLASSIFICATION_METRICS,
    LOWER_IS_BETTER,
    REGRESSION_METRICS,
    Truth,
    rarer_class,
    score,
    scores,
)

__all__ = [
    "CLASSIFICATION_METRICS",
    "LOWER_IS_BETTER",
    "REGRESSION_METRICS",
    "TaskKind",
    "all_scores",
    "metrics_of",
    "rarer_class",
    "score",
]


def metrics_of(task: TaskKind) -> tuple[str, ...]:
    """The metrics that the task is measured by; the first is its default."""
    return REGRESSION_METRICS if task is TaskKind.REGRESSION else CLASSIFICATION_METRICS


def all_scores(
    task: TaskKind, truth: Truth, predictions: Floats, weights: Floats | None, positive: int
) -> dict[str, float]:
    """Every metric of the task that is defined for these rows, and for classes `ece`."""
    classes = task is not TaskKind.REGRESSION
    return scores(truth, predictions, weights, positive, classes=classes)
