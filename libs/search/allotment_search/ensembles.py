"""Greedy selection of an ensemble on predictions of rows that no member was fitted on.

Source: Caruana, Niculescu-Mizil, Crew, Ksikes (2004), Ensemble selection from libraries of models:
forward selection with replacement, begun with the best few. Pure: the same predictions give the
same ensemble.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from allotment_search import metrics
from allotment_search.metrics import Floats, Integers, Truth

_WARM_START = 4
"""The mean of the best one to four is where selection begins."""
_WIDE_STEPS = 4
"""So many steps look at every candidate, later ones at the most promising."""
_NEW_MEMBER_GAIN = 1e-3
"""What another member has to gain, as a share of the loss, over more weight for those there."""
_FEW_ROWS = 4_000
_SHUFFLE_SEED = 2004
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effort:
    """What selection looks at, so that it takes a tenth of a second whatever the metric costs."""

    candidates: int = 50
    steps: int = 20
    promising: int = 12
    rows: int = 20_000
    cells: int = 1_000_000
    """Rows x classes."""


_LABELS = _Effort(candidates=30, steps=16, promising=8, cells=30_000)
_SORTED = _Effort(candidates=16, steps=12, promising=6, cells=8_000)
_EFFORTS = {"accuracy": _LABELS, "f1": _LABELS, "auc": _SORTED, "ap": _SORTED}
_ANY_EFFORT = _Effort()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A model that may become a member. ``predictions``: [rows, classes], or [rows, 1]."""

    key: int
    predictions: Floats
    loss: float
    size_bytes: int = 0
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What all candidates predict: the truth of it, and how predictions of it are scored."""

    metric: str
    truth: Truth
    weights: Floats
    positive: int = 1

    def loss(self, predictions: Floats) -> float:
        """Lower is better."""
        return metrics.loss(
            self.metric, self.truth, predictions, self.weights, positive=self.positive
        )

    def take(self, places: Integers) -> "Rows":
        return Rows(
            metric=self.metric,
            truth=self.truth[places],
            weights=self.weights[places],
            positive=self.positive,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleLimits:
    """How large an ensemble may be; 0 bytes or ms: no limit."""

    members: int = 8
    size_bytes: int = 0
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Members by their key with weights that sum to 1, the heaviest first."""

    members: tuple[tuple[int, float], ...]
    cross_fitted_gain: float
    """Loss of the best single candidate less that of ensembles on rows that did not choose them."""


def select(candidates: Sequence[Candidate], rows: Rows, limits: EnsembleLimits) -> Ensemble | None:
    """An ensemble that beats the best candidate also on rows that did not choose it; else None."""
    effort = _EFFORTS.get(rows.metric, _ANY_EFFORT)
    ranked = sorted(candidates, key=lambda c: (c.loss, c.key))[: effort.candidates]
    if len(ranked) < 2:
        return None
    places = _looked_at(rows, ranked[0].predictions.shape[1])
    shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(places)
    parts = np.array_split(shuffled, 4 if len(places) <= _FEW_ROWS else 2)
    gain = _cross_fitted_gain(ranked, rows, limits, parts)
    if not gain > 0:
        return None
    members = _grow(ranked, rows, limits, np.sort(places))
    if len(members) < 2 or not rows.loss(_mixed(ranked, members)) < ranked[0].loss:
        return None
    total = sum(members.values())
    found = [(ranked[place].key, count / total) for place, count in members.items()]
    found.sort(key=lambda member: (-member[1], member[0]))
    return Ensemble(members=tuple(found), cross_fitted_gain=gain)


def mix(predictions: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted mean."""
    total = predictions[0] * weights[0]
    for one, weight in zip(predictions[1:], weights[1:], strict=True):
        total = total + one * weight
    return total


def _mixed(ranked: Sequence[Candidate], members: Counter[int]) -> Floats:
    total = sum(members.values())
    chosen = [ranked[place].predictions for place in members]
    return mix(chosen, [count / total for count in members.values()])


def _looked_at(rows: Rows, width: int) -> Integers:
    """Rows that selection looks at: all, or an even sample of them that is affordable."""
    effort = _EFFORTS.get(rows.metric, _ANY_EFFORT)
    limit = min(effort.rows, max(1_000, effort.cells // width))
    count = len(rows.truth)
    if count <= limit:
        return np.arange(count)
    drawn = np.random.default_rng(_SHUFFLE_SEED).choice(count, limit, replace=False)
    return np.sort(drawn)


def _cross_fitted_gain(
    ranked: Sequence[Candidate], rows: Rows, limits: EnsembleLimits, parts: Sequence[Integers]
) -> float:
    """How much less than the best candidate ensembles lose, each on the part that it did not see.

    The best candidate was chosen on all rows: the estimate errs on its side.
    """
    pieces = []
    for left_out in range(len(parts)):
        seen = np.sort(np.concatenate([p for n, p in enumerate(parts) if n != left_out]))
        members = _grow(ranked, rows, limits, seen)
        total = sum(members.values())
        chosen = [ranked[place].predictions[parts[left_out]] for place in members]
        pieces.append(mix(chosen, [count / total for count in members.values()]))
    order = np.concatenate(parts)
    judged = rows.take(order)
    loss = judged.loss(np.concatenate(pieces))
    return judged.loss(ranked[0].predictions[order]) - loss


def _grow(
    ranked: Sequence[Candidate], rows: Rows, limits: EnsembleLimits, places: Integers
) -> Counter[int]:
    """Members by their place among the candidates, with how often each was chosen."""
    total_loss, values = _objective(ranked, rows.take(places), places)
    members = _warm_start(ranked, limits, total_loss, values)
    total = mix([values[place] for place in members], list(members.values()))
    loss = total_loss(total, sum(members.values()))
    best = (loss, Counter(members))
    scope = list(range(len(ranked)))
    effort = _EFFORTS.get(rows.metric, _ANY_EFFORT)
    for step in range(effort.steps):
        count = sum(members.values())
        losses = {
            place: total_loss(total + values[place], count + 1)
            for place in scope
            if place in members or _fits(ranked, members, place, limits)
        }
        if step + 1 == _WIDE_STEPS:
            promising = sorted(losses, key=lambda p: (losses[p], p))[: effort.promising]
            scope = sorted({*promising, *members})
        place = _next(losses, members, best[0])
        if place is None:
            break
        members[place] += 1
        total = total + values[place]
        if losses[place] < best[0]:
            best = (losses[place], Counter(members))
    return best[1]


def _next(losses: dict[int, float], members: Counter[int], best: float) -> int | None:
    """Whom to choose next: somebody new only where that gains enough; None: nobody helps."""
    place = min(losses, key=lambda p: (losses[p], p))
    known = min((p for p in losses if p in members), key=lambda p: (losses[p], p))
    if not np.isfinite(losses[place]):
        return None
    if place not in members and losses[place] > best - _NEW_MEMBER_GAIN * abs(best):
        return known
    return place


def _fits(
    ranked: Sequence[Candidate], members: Counter[int], place: int, limits: EnsembleLimits
) -> bool:
    if len(members) >= limits.members:
        return False
    chosen = [ranked[p] for p in (*members, place)]
    small = not limits.size_bytes or sum(c.size_bytes for c in chosen) <= limits.size_bytes
    quick = not limits.latency_ms or sum(c.latency_ms for c in chosen) <= limits.latency_ms
    return small and quick


Objective = Callable[[Floats, int], float]


def _warm_start(
    ranked: Sequence[Candidate],
    limits: EnsembleLimits,
    total_loss: Objective,
    values: Sequence[Floats],
) -> Counter[int]:
    """The best few candidates whose mean is the best; the best one is always among them."""
    members: Counter[int] = Counter({0: 1})
    best, loss, total = Counter(members), total_loss(values[0], 1), values[0]
    for place in range(1, min(_WARM_START, len(ranked))):
        if not _fits(ranked, members, place, limits):
            continue
        members[place] = 1
        total = total + values[place]
        found = total_loss(total, len(members))
        if found < loss * (1 - _NEW_MEMBER_GAIN) if loss > 0 else found < loss:
            best, loss = Counter(members), found
    return best


def _objective(
    ranked: Sequence[Candidate], rows: Rows, places: Integers
) -> tuple[Objective, list[Floats]]:
    """The loss of the mean of ``count`` candidates, as a function of the sum of their values.

    Of probabilities log loss needs those of the true classes alone.
    """
    if rows.metric == "log_loss":
        truth = rows.truth.astype(np.int64)
        values = [c.predictions[places, truth].clip(_EPS, 1 - _EPS) for c in ranked]
        shares = rows.weights / rows.weights.sum()

        def log_loss(total: Floats, count: int) -> float:
            # Not a product by BLAS: its threads wait for each other where processors are busy.
            return float(np.log(count) - (np.log(total) * shares).sum())

        return log_loss, values

    def any_loss(total: Floats, count: int) -> float:
        found = rows.loss(total / count)
        return found if np.isfinite(found) else float("inf")

    return any_loss, [c.predictions[places] for c in ranked]
