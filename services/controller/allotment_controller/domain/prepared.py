"""Proposals that were computed ahead, so that a free slot need not wait for its next trial.

The sampler takes milliseconds, a change must not: while trials run, a worker thread computes what
comes next from a view of the history, and an edit takes what is ready. What a proposal was computed
from is stored with its trial, so that the journal shows the same decision again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from allotment_controller.domain.budget import expected_s
from allotment_controller.domain.ledger import Ledger, Timing
from allotment_controller.domain.trial import Basis
from allotment_search import Derivation, Grammar, HistoryView, Proposal, TaskShape

_OPTIMISM = 0.7


def affordable(
    grammar: Grammar,
    shape: TaskShape,
    timings: tuple[Timing, ...],
    left_s: float | None,
    derivation: Derivation,
) -> bool:
    """Whether a derivation can be trained in the time left; None: there is plenty.

    Estimates are rough, and a trial that is stopped at the end costs nothing but its own time.
    """
    if left_s is None:
        return True
    cost_s = grammar.cost_s(derivation, shape)
    return _OPTIMISM * expected_s(cost_s, str(derivation[0].value), timings) <= left_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a sampler is asked: everything that its answer depends on."""

    grammar: Grammar
    shape: TaskShape
    families: frozenset[str]
    history: HistoryView
    count: int
    seed: int
    timings: tuple[Timing, ...]
    left_s: float | None

    @property
    def is_affordable(self) -> Callable[[Derivation], bool]:
        return partial(affordable, self.grammar, self.shape, self.timings, self.left_s)


def ask(
    ledger: Ledger,
    grammar: Grammar,
    families: Iterable[str],
    count: int,
    left_s: float | None,
    *,
    one_slot: bool,
) -> Question:
    """The question as of the ledger's revision.

    With ``one_slot`` the newest trial counts as pending even if it has ended: then it does not
    matter whether the question comes while it runs, or when a search goes on later.
    """
    plan = ledger.experiment.plan
    return Question(
        grammar=grammar,
        shape=plan.shape,
        families=frozenset(families),
        history=ledger.history.view(unseen=len(ledger.history) if one_slot else 0),
        count=count,
        seed=plan.spec.seed,
        timings=tuple(ledger.timings),
        left_s=left_s,
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """A proposal, and what it was computed from."""

    proposal: Proposal
    basis: Basis

    @property
    def family(self) -> str:
        return str(self.proposal.derivation[0].value)


class Prepared:
    """What one edit may take. ``patient``: slots wait for proposals that are still coming."""

    def __init__(self, ready: Iterable[Ready] = (), *, patient: bool = False) -> None:
        self.ready = list(ready)
        self.used: list[Ready] = []
        """What was taken, or is of no use any more."""
        self.patient = patient
        self.missing = 0
        """Slots that asked while nothing was ready."""

    def take(
        self,
        known: Callable[[Derivation], bool],
        families: Iterable[str],
        is_affordable: Callable[[Derivation], bool],
    ) -> Ready | None:
        """The first one that is new, of these families and affordable; None: nothing is ready."""
        for ready in list(self.ready):
            derivation = ready.proposal.derivation
            useless = known(derivation) or not is_affordable(derivation)
            if not useless and ready.family not in families:
                continue
            self.ready.remove(ready)
            self.used.append(ready)
            if not useless:
                return ready
        self.missing += 1
        return None
