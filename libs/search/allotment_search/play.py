"""The order of play: the constant predictor, cheap sane defaults, then the sampler's proposals."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from allotment_search.derivation import Derivation
from allotment_search.grammar import Grammar
from allotment_search.shape import TaskShape

Origin = Literal["CONSTANT", "DEFAULT", "RANDOM"]
_DRAWS_PER_PROPOSAL = 60
_CHEAP_S = 2.0


class History:
    """The derivations proposed so far, in order; tells in constant time whether one was."""

    def __init__(self, derivations: Iterable[Derivation] = ()) -> None:
        self._derivations = list(derivations)
        self._known = set(self._derivations)

    def add(self, derivation: Derivation) -> None:
        self._derivations.append(derivation)
        self._known.add(derivation)

    def __len__(self) -> int:
        return len(self._derivations)

    def __contains__(self, derivation: object) -> bool:
        return derivation in self._known


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to train next, and where it comes from."""

    derivation: Derivation
    origin: Origin


class Sampler(Protocol):
    """Chooses derivations. A pure function of the history and the generator's state."""

    def propose(self, history: History, count: int, rng: np.random.Generator) -> list[Derivation]:
        """At most ``count`` derivations, none of which is in the history or twice in the answer."""
        ...


class RandomSampler:
    """Independent draws from the grammar, families by weight, without repetition.

    ``affordable`` refuses draws before they are proposed.
    """

    def __init__(
        self,
        grammar: Grammar,
        shape: TaskShape,
        families: Collection[str],
        affordable: Callable[[Derivation], bool] = lambda _: True,
    ) -> None:
        self._grammar = grammar
        self._shape = shape
        weights = {f: grammar.family_weight(f) for f in grammar.families if f in families}
        self._families = [f for f, weight in weights.items() if weight > 0]
        self._marks = np.cumsum([weights[f] for f in self._families])
        self._affordable = affordable

    def propose(self, history: History, count: int, rng: np.random.Generator) -> list[Derivation]:
        proposals: dict[Derivation, None] = {}
        if not self._families:
            return []
        for _ in range(_DRAWS_PER_PROPOSAL * count):
            if len(proposals) == count:
                break
            mark = float(rng.random()) * float(self._marks[-1])
            family = self._families[int(np.searchsorted(self._marks, mark, side="right"))]
            derivation = self._grammar.derive(rng, family, self._shape)
            if derivation not in history and self._affordable(derivation):
                proposals[derivation] = None
        return list(proposals)


def portfolio(grammar: Grammar, shape: TaskShape, families: Collection[str]) -> list[Derivation]:
    """The constant predictor, then the grammar's defaults, each once.

    They keep the file's order while they are cheap; dearer ones wait, by powers of four of cost.
    """
    entries = [
        e
        for e in grammar.portfolio
        if e.family in families
        and shape.row_count >= e.min_rows
        and grammar.default_fits(e.family, e.default, shape)
    ]
    derivations = dict.fromkeys(grammar.default(e.family, e.default, shape) for e in entries)
    return sorted(derivations, key=lambda d: _cost_class(grammar.cost_s(d, shape), d))


def _cost_class(cost_s: float, derivation: Derivation) -> int:
    if derivation[0].value == "constant":
        return -1
    return 0 if cost_s <= _CHEAP_S else math.ceil(math.log(cost_s / _CHEAP_S, 4))


def next_proposals(
    grammar: Grammar,
    shape: TaskShape,
    families: Collection[str],
    history: History,
    count: int,
    seed: int,
    affordable: Callable[[Derivation], bool] = lambda _: True,
) -> list[Proposal]:
    """What to train next; fewer than ``count`` when nothing new is left or affordable.

    A pure function of its arguments: the same history and seed give the same proposals.
    """
    proposals = [
        Proposal(d, "CONSTANT" if d[0].value == "constant" else "DEFAULT")
        for d in portfolio(grammar, shape, families)
        if d not in history and (d[0].value == "constant" or affordable(d))
    ][:count]
    if len(proposals) < count:
        sampler = RandomSampler(
            grammar,
            shape,
            families,
            lambda d: affordable(d) and all(d != p.derivation for p in proposals),
        )
        rng = np.random.default_rng([seed, len(history)])
        missing = count - len(proposals)
        drawn = sampler.propose(history, missing, rng)
        proposals = [*proposals, *(Proposal(d, "RANDOM") for d in drawn)]
    return proposals
