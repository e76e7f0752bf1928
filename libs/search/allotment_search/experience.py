"""What earlier tasks say about the order of the learnt portfolio. Pure.

Of a task two things are kept: coarse counts, by which tasks are compared, and how well the entries
of the shipped portfolio did on it beside its own best trial.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allotment_search.shape import TaskShape

NEAREST = 8
"""Earlier tasks that are listened to."""
_PRIOR = 1.0
"""What the shipped order weighs: as much as one task that is alike in everything."""
_FEWEST = 3
"""Entries that have to have been tried on a task: fewer say little about an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """A task in numbers so coarse that one can't tell a table by them.

    Counts are log10(1 + n) to a tenth, shares to a twentieth.
    """

    is_regression: bool
    rows: float
    numeric: float
    category: float
    date: float
    text: float
    classes: float
    levels: float
    """Of the categorical column that has most."""
    missing: float
    """Share of cells."""
    rarest: float
    """Share of the rarest class; 0 in a regression."""

    @classmethod
    def of(
        cls, shape: TaskShape, *, level_count: int, missing_share: float, rarest_share: float
    ) -> "Traits":
        return cls(
            is_regression=shape.task == "regression",
            rows=_magnitude(shape.row_count),
            numeric=_magnitude(shape.numeric_count),
            category=_magnitude(shape.category_count),
            date=_magnitude(shape.date_count),
            text=_magnitude(shape.text_count),
            classes=_magnitude(shape.class_count),
            levels=_magnitude(level_count),
            missing=_coarse(missing_share),
            rarest=_coarse(rarest_share),
        )

    def distance(self, other: "Traits") -> float:
        """1 is a factor of ten in one count, or the whole of a share; infinite between kinds."""
        if self.is_regression != other.is_regression:
            return math.inf
        return math.dist(self._point, other._point)

    @property
    def _point(self) -> tuple[float, ...]:
        counts = (self.rows, self.numeric, self.category, self.date, self.text, self.classes)
        return (*counts, self.levels, self.missing, self.rarest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What a task leaves behind."""

    traits: Traits
    results: Mapping[str, float | None]
    """Relative loss by the entry's key: 0 as the task's best trial, 1 as the constant predictor.
    None: it was put off, or came to nothing."""


def relative_loss(loss: float, best: float, constant: float) -> float | None:
    """In thousandths; None where the best is no better than the constant predictor."""
    span = constant - best
    if not (math.isfinite(span) and span > 0):
        return None
    return round(min(1.0, max(0.0, (loss - best) / span)), 3)


def says_something(results: Mapping[str, float | None]) -> bool:
    """Whether enough entries were trained to their end for an order."""
    return sum(loss is not None for loss in results.values()) >= _FEWEST


def nearest(mine: Traits, past: Sequence[Traits]) -> list[int]:
    """Places of the tasks that are most like this one, the nearest first; of two the earlier."""
    distances = sorted((mine.distance(other), place) for place, other in enumerate(past))
    return [place for distance, place in distances[:NEAREST] if math.isfinite(distance)]


def order_for(keys: Sequence[str], mine: Traits, past: Sequence[Experience]) -> tuple[str, ...]:
    """The entries' keys by their mean rank, where a task weighs exp(-its distance).

    ``keys`` in the shipped order, which counts as one more task. Empty where nothing is known.
    """
    last = max(1, len(keys) - 1)
    totals = {key: _PRIOR * place / last for place, key in enumerate(keys)}
    weights = dict.fromkeys(keys, _PRIOR)
    for each in past:
        weight = math.exp(-mine.distance(each.traits))
        for key, rank in _ranks(keys, each.results).items():
            totals[key] += weight * rank
            weights[key] += weight
    if all(weight == _PRIOR for weight in weights.values()):
        return ()
    return tuple(sorted(keys, key=lambda key: totals[key] / weights[key]))


def _ranks(keys: Sequence[str], results: Mapping[str, float | None]) -> dict[str, float]:
    """0 for the best of those that were tried, 1 for the worst; alike ones share theirs."""
    losses = {key: _or_worst(results[key]) for key in keys if key in results}
    if len(losses) < 2:
        return {}
    ranks = {}
    for key, loss in losses.items():
        better = sum(other < loss for other in losses.values())
        alike = sum(other == loss for other in losses.values()) - 1
        ranks[key] = (better + alike / 2) / (len(losses) - 1)
    return ranks


def _or_worst(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _magnitude(count: int) -> float:
    return round(math.log10(1 + max(0, count)), 1)


def _coarse(share: float) -> float:
    return round(round(20 * min(1.0, max(0.0, share))) / 20, 2)
