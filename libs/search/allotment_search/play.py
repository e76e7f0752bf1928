"""The order of play: the constant predictor, cheap sane defaults, then the sampler's proposals."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from allotment_search.derivation import Derivation
from allotment_search.grammar import Grammar
from allotment_search.history import HistoryView
from allotment_search.origins import Origin
from allotment_search.portfolio import plan, portfolio
from allotment_search.shape import TaskShape
from allotment_search.tpe import TpeSampler

SamplerKind = Literal["tpe", "random"]
RANDOM_SHARE = 0.15
"""Of the proposals beside TPE's are random draws: it may be wrong about the space."""
OUTCOMES_TO_MODEL = 8
"""Scores that have to be known before TPE proposes anything."""
_DRAWS_PER_PROPOSAL = 60


class Known(Protocol):
    """The derivations proposed so far."""

    def __len__(self) -> int: ...

    def __contains__(self, derivation: object) -> bool: ...


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to train next, and where it comes from."""

    derivation: Derivation
    origin: Origin


class Sampler(Protocol):
    """Chooses derivations. A pure function of the history and the generator's state."""

    def propose(
        self, history: HistoryView, count: int, rng: np.random.Generator
    ) -> list[Derivation]:
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

    def propose(self, history: Known, count: int, rng: np.random.Generator) -> list[Derivation]:
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


def untried_defaults(
    grammar: Grammar, shape: TaskShape, families: Collection[str], history: Known
) -> list[Derivation]:
    """What is left of the portfolio."""
    return [d for d in portfolio(grammar, shape, families) if d not in history]


def next_default(
    grammar: Grammar,
    shape: TaskShape,
    families: Collection[str],
    history: Known,
    affordable: Callable[[Derivation], bool] = lambda _: True,
    order: tuple[str, ...] = (),
) -> Proposal | None:
    """The first of the portfolio that is new and affordable; the constant predictor always is.

    ``order``: of what was learnt, as `plan` takes it.
    """
    for entry in plan(grammar, shape, frozenset(families), order):
        if entry.derivation in history:
            continue
        if entry.origin == "CONSTANT" or affordable(entry.derivation):
            return Proposal(entry.derivation, entry.origin)
    return None


def next_random(
    grammar: Grammar,
    shape: TaskShape,
    families: Collection[str],
    history: Known,
    seed: int,
    affordable: Callable[[Derivation], bool] = lambda _: True,
) -> Proposal | None:
    """A draw that depends on the seed and the history's length; None when nothing new is found."""
    rng = np.random.default_rng([seed, len(history)])
    drawn = RandomSampler(grammar, shape, families, affordable).propose(history, 1, rng)
    return Proposal(drawn[0], "RANDOM") if drawn else None


class MixedSampler:
    """Proposals beyond the portfolio: TPE's, and a share of random draws."""

    def __init__(self, grammar: Grammar, shape: TaskShape, families: Collection[str]) -> None:
        """Takes half a second in a process that has not loaded Optuna yet."""
        self._grammar, self._shape, self._families = grammar, shape, families
        self._tpe = TpeSampler(grammar, shape, families)

    def proposals(
        self,
        history: HistoryView,
        count: int,
        seed: int,
        affordable: Callable[[Derivation], bool] = lambda _: True,
    ) -> list[Proposal]:
        """The next ``count`` ones; fewer when nothing new is left. Takes milliseconds for each.

        A pure function of its arguments; each proposal takes those before it as pending.
        """
        scored = sum(outcome.loss is not None for outcome in history.ended)
        batch = self._tpe.batch(history, affordable) if scored >= OUTCOMES_TO_MODEL else None
        random = RandomSampler(self._grammar, self._shape, self._families, affordable)
        proposals: list[Proposal] = []
        for _ in range(count):
            number = len(history)
            mixing = np.random.default_rng([seed, number, 1])
            drawn: list[Derivation] = []
            origin: Origin = "TPE"
            if batch is not None and float(mixing.random()) >= RANDOM_SHARE:
                drawn = batch.propose(1, mixing)
            if not drawn:
                origin = "RANDOM"
                drawn = random.propose(history, 1, np.random.default_rng([seed, number]))
                if batch is not None and drawn:
                    batch.pend(drawn[0])
            if not drawn:
                break
            proposals.append(Proposal(drawn[0], origin))
            history = history.ahead(drawn)
        return proposals
