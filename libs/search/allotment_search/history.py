"""What was proposed so far, and what came of it; seen by samplers through a capped view."""

import bisect
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from allotment_search.derivation import Derivation

VIEW_LIMIT = 120
"""Ended trials that a sampler sees: what a suggestion costs grows with them."""
_PENDING_LIMIT = 128
_KEPT = 256
"""Of the best and of the latest: the largest view."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A derivation that has ended. ``loss`` is None when it ended without a score."""

    number: int
    derivation: Derivation
    loss: float | None


class HistoryView:
    """A history as of one moment: its best and latest outcomes, and all that is pending.

    It never changes, also when the history that it was taken of grows meanwhile.
    """

    def __init__(
        self,
        ended: tuple[Outcome, ...],
        pending: tuple[Derivation, ...],
        numbers: Mapping[Derivation, int],
        count: int,
    ) -> None:
        self.ended = ended
        """By number."""
        self.pending = pending
        self._numbers = numbers
        self._count = count

    def __len__(self) -> int:
        """How many were proposed until then."""
        return self._count

    def __contains__(self, derivation: object) -> bool:
        number = self._numbers.get(derivation)  # type: ignore[call-overload]
        return number is not None and number < self._count

    def ahead(self, derivations: Iterable[Derivation]) -> "HistoryView":
        """The view as if these had been proposed already, and were pending."""
        added = tuple(derivations)
        if not added:
            return self
        return _Ahead(self, added)


class _Ahead(HistoryView):
    def __init__(self, view: HistoryView, added: tuple[Derivation, ...]) -> None:
        super().__init__(view.ended, (*view.pending, *added), {}, len(view) + len(added))
        self._under = view
        self._added = frozenset(added)

    def __contains__(self, derivation: object) -> bool:
        return derivation in self._added or derivation in self._under


class History:
    """The derivations proposed so far, in order, each once; which of them ended, and how.

    Everything but `view` takes constant time, and that takes the view's.
    """

    def __init__(self, derivations: Iterable[Derivation] = ()) -> None:
        self._numbers: dict[Derivation, int] = {}
        self._count = 0
        self._pending: dict[int, Derivation] = {}
        self._best: list[tuple[float, int]] = []
        self._latest: deque[Outcome] = deque(maxlen=_KEPT)
        self._kept: dict[int, Outcome] = {}
        for derivation in derivations:
            self.add(derivation)

    def add(self, derivation: Derivation) -> None:
        """It is proposed, and pending from now on."""
        self._numbers.setdefault(derivation, self._count)
        self._pending[self._count] = derivation
        self._count += 1

    def end(self, number: int, loss: float | None) -> bool:
        """The ``number``-th one added (from 1) has ended; None: without a score. False: it had."""
        derivation = self._pending.pop(number - 1, None)
        if derivation is None:
            return False
        outcome = Outcome(number, derivation, loss)
        self._latest.append(outcome)
        if loss is None:
            return True
        bisect.insort(self._best, (loss, number))
        self._kept[number] = outcome
        if len(self._best) > _KEPT:
            self._kept.pop(self._best.pop()[1])
        return True

    def drop(self, number: int) -> None:
        """The ``number``-th one added (from 1) was broken off: known, and nothing is said of it."""
        self._pending.pop(number - 1, None)

    @property
    def derivations(self) -> Collection[Derivation]:
        """All of them, in order."""
        return self._numbers.keys()

    def view(self, limit: int = VIEW_LIMIT, *, unseen: int = 0) -> HistoryView:
        """At most ``limit`` ended ones: the better half of them the best, the others the latest.

        The one of number ``unseen`` counts as pending, whatever has become of it.
        """
        chosen: dict[int, Outcome] = {}
        for _, number in self._best[: (limit + 1) // 2 + 1]:
            if number != unseen and len(chosen) < (limit + 1) // 2:
                chosen[number] = self._kept[number]
        hidden = [o.derivation for o in self._latest if o.number == unseen]
        for outcome in reversed(self._latest):
            if len(chosen) >= limit:
                break
            if outcome.number != unseen:
                chosen.setdefault(outcome.number, outcome)
        latest = list(islice(reversed(self._pending.values()), _PENDING_LIMIT))
        pending = [*reversed(latest), *hidden]
        ended = tuple(chosen[n] for n in sorted(chosen))
        return HistoryView(ended, tuple(pending), self._numbers, self._count)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, derivation: object) -> bool:
        return derivation in self._numbers
