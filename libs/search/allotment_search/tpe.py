"""Tree-structured Parzen estimator: Optuna's, over derivations, as a pure function.

The family is one categorical parameter, modelled over all that was seen. The choices within a
family are one joint (multivariate) space of their own, modelled over the family's trials. Pending
derivations count as bad ones (constant liar), so that proposals of one batch spread.

Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011; Watanabe,
Tree-Structured Parzen Estimator, 2023 (what Optuna does).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from allotment_search.derivation import Derivation
from allotment_search.encoding import Dimension, Point
from allotment_search.grammar import Grammar
from allotment_search.history import HistoryView, Outcome
from allotment_search.shape import TaskShape

if TYPE_CHECKING:
    from allotment_search.optuna_space import Observed, OptunaSpace

_GOOD_SHARE = 0.1
_GOOD_LIMIT = 25
"""Optuna's: the best tenth of the outcomes, at most 25, are the good ones."""
_FAMILY_CANDIDATES = 24
_ASKS_PER_PROPOSAL = 4
_SPACE_LIMIT = 64
"""Outcomes that one space is modelled by: the better half of them the best, the others the latest.
"""
_TRIALS_KEPT = 1024


class TpeSampler:
    """Implements the port `Sampler`. Loads Optuna when it is built: half a second of work."""

    def __init__(self, grammar: Grammar, shape: TaskShape, families: Collection[str]) -> None:
        self.families = tuple(
            f for f in grammar.families if f in families and grammar.family_weight(f) > 0
        )
        load_optuna()
        self._encodings = {f: grammar.encoding(f, shape) for f in self.families}
        self._models: dict[str, _Model] = {}
        for family, encoding in self._encodings.items():
            point = partial(self._point, family)
            self._models[family] = _Model(encoding.dimensions, point)

    def propose(
        self, history: HistoryView, count: int, rng: np.random.Generator
    ) -> list[Derivation]:
        """At most ``count`` new derivations; fewer where it finds none that is new and sensible."""
        return self.batch(history).propose(count, rng)

    def batch(
        self, history: HistoryView, affordable: Callable[[Derivation], bool] = lambda _: True
    ) -> "TpeBatch":
        """Proposals from one view of the history."""
        return TpeBatch(self, history, affordable)

    def model(self, name: str) -> "_Model":
        return self._models[name]

    def decode(self, family: str, point: Point) -> Derivation | None:
        return self._encodings[family].decode(point)

    def _point(self, family: str, derivation: Derivation) -> Point | None:
        if derivation[0].value != family:
            return None
        return self._encodings[family].encode(derivation)


class TpeBatch:
    """Each proposal knows of the ones before it."""

    def __init__(
        self, sampler: TpeSampler, history: HistoryView, affordable: Callable[[Derivation], bool]
    ) -> None:
        self._sampler = sampler
        self._affordable = affordable
        self._history = history
        self._spaces: dict[str, OptunaSpace] = {}

    def propose(self, count: int, rng: np.random.Generator) -> list[Derivation]:
        """At most ``count`` new derivations."""
        proposals: list[Derivation] = []
        if not self._sampler.families:
            return proposals
        for _ in range(count):
            derivation = self._one(rng)
            if derivation is None:
                break
            self.pend(derivation)
            proposals.append(derivation)
        return proposals

    def pend(self, derivation: Derivation) -> None:
        """This one is going to be tried as well."""
        self._history = self._history.ahead([derivation])
        for name, space in self._spaces.items():
            space.trials.extend(self._sampler.model(name).pending([derivation]))

    def _one(self, rng: np.random.Generator) -> Derivation | None:
        family = self._family(rng)
        for _ in range(_ASKS_PER_PROPOSAL):
            point = self._space(family).ask(int(rng.integers(2**32)))
            derivation = self._sampler.decode(family, point)
            if derivation is None or derivation in self._history:
                continue
            if self._affordable(derivation):
                return derivation
        return None

    def _family(self, rng: np.random.Generator) -> str:
        """One categorical parameter's TPE, in closed form."""
        families = self._sampler.families
        if len(families) == 1:
            return families[0]
        places = {f: n for n, f in enumerate(families)}
        scored = [o for o in self._history.ended if str(o.derivation[0].value) in places]
        scored.sort(key=lambda o: (math.inf if o.loss is None else o.loss, o.number))
        good_count = min(_GOOD_LIMIT, math.ceil(_GOOD_SHARE * len(scored)))
        derivations = [o.derivation for o in scored]
        good = self._shares(derivations[:good_count], places)
        bad = self._shares([*derivations[good_count:], *self._history.pending], places)
        drawn = rng.choice(len(families), size=_FAMILY_CANDIDATES, p=good)
        return families[int(max(drawn, key=lambda place: float(good[place] / bad[place])))]

    def _shares(
        self, derivations: Sequence[Derivation], places: Mapping[str, int]
    ) -> npt.NDArray[np.float64]:
        """Of each family, with one made-up trial that is spread over all of them."""
        counts = np.full(len(places), 1.0 / len(places))
        for derivation in derivations:
            place = places.get(str(derivation[0].value))
            if place is not None:
                counts[place] += 1.0
        shares: npt.NDArray[np.float64] = counts / counts.sum()
        return shares

    def _space(self, name: str) -> "OptunaSpace":
        if name not in self._spaces:
            self._spaces[name] = self._sampler.model(name).space(self._history)
        return self._spaces[name]


class _Model:
    """What one space is, and the trials that were shown of it: kept, for they are read often."""

    def __init__(
        self, dimensions: tuple[Dimension, ...], point: Callable[[Derivation], Point | None]
    ) -> None:
        self._observed: Observed = load_optuna().Observed(dimensions)
        self._point = point
        self._ended: OrderedDict[int, tuple[Outcome, Any]] = OrderedDict()

    def space(self, history: HistoryView) -> "OptunaSpace":
        trials = [(o, t) for o in history.ended if (t := self._shown(o)) is not None]
        known = [t for _, t in _selected(trials)]
        space: OptunaSpace = load_optuna().OptunaSpace(
            self._observed, [*known, *self.pending(history.pending)]
        )
        return space

    def pending(self, derivations: Collection[Derivation]) -> list[Any]:
        points = (self._point(d) for d in derivations)
        return [self._observed.pending(n, p) for n, p in enumerate(points) if p is not None]

    def _shown(self, outcome: Outcome) -> Any:
        known, shown = self._ended.get(outcome.number, (None, None))
        if known is not outcome:
            point = self._point(outcome.derivation)
            shown = None
            if point is not None:
                shown = self._observed.ended(outcome.number, point, outcome.loss)
            self._ended[outcome.number] = (outcome, shown)
        self._ended.move_to_end(outcome.number)
        if len(self._ended) > _TRIALS_KEPT:
            self._ended.popitem(last=False)
        return shown


def _selected(trials: list[tuple[Outcome, Any]]) -> list[tuple[Outcome, Any]]:
    if len(trials) <= _SPACE_LIMIT:
        return trials
    scored = [(o.loss, o.number) for o, _ in trials if o.loss is not None]
    numbers = {n for _, n in sorted(scored)[: _SPACE_LIMIT // 2]}
    for outcome, _ in reversed(trials):
        if len(numbers) == _SPACE_LIMIT:
            break
        numbers.add(outcome.number)
    return [(o, t) for o, t in trials if o.number in numbers]


def load_optuna() -> Any:
    """The module that imports Optuna."""
    from allotment_search import optuna_space  # noqa: PLC0415 (slow to import)

    return optuna_space
