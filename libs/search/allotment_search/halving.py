"""Early stopping by rank alone: asynchronous successive halving with promotion.

After Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), algorithm 2,
with two differences: a trial that is among the best of its rung goes on at once, and what is not
is put off, not given up: it goes on when it comes among the best as more trials reach the rung, or
when nothing better is left to do. Resources are folds, and within the first of them the
boosting rounds or epochs of its fit. Everything is a pure function of losses and seeds.
"""

from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

_MIX = 0xD1B54A32D192ED03
FOLDS = "folds"

Amount = Fraction | int
"""Whole folds as an int; a Fraction is that share of the steps of the first fold's fit."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What a family's fits are counted in. Within a fit, trials of one unit alone are compared."""

    unit: str
    least: int
    """A fit is not judged after fewer steps."""

    def step_at(self, fit_rung: int, steps: int) -> int:
        """After how many of a fit's steps one `fit_rung`-th of them is done; 0: those are too few
        to tell anything, or all."""
        step = -(-steps // fit_rung)
        return step if self.least <= step < steps else 0


SCALES: Mapping[str, Scale] = {
    "hist_gradient_boosting": Scale("rounds", 10),
    "lightgbm": Scale("rounds", 10),
    "mlp": Scale("epochs", 3),
}
"""Families whose fits are judged before their end."""


@dataclass(frozen=True, slots=True)
class Level:
    """Where trials are compared with each other."""

    amount: Amount
    unit: str = FOLDS

    @classmethod
    def of(cls, family: str, amount: Amount) -> "Level | None":
        """Where a trial of this family stands; None: such trials are not judged there."""
        if amount >= 1:
            return cls(amount)
        scale = SCALES.get(family)
        return None if scale is None else cls(amount, scale.unit)

    def holds(self, family: str) -> bool:
        """Whether trials of this family are compared here."""
        return self == Level.of(family, self.amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Halving:
    """The rule's numbers."""

    eta: int = 3
    """One of this many goes on; rungs are this factor apart."""
    grace: int = 6
    """Trials that have to be finished before any is put off."""
    family_grace: int = 1
    """Trials of a family that have to be finished before one of it is put off."""
    audit_share: float = 0.05
    """Trials that run to their end whatever their rank: they show what is lost."""
    least_saving_s: float = 0.2
    """A trial whose other folds are expected to take less is not worth putting off; nor is one
    within its first fit where the rest of that fit is expected to."""
    fit_rung_count: int = 2
    """Rungs within the first fit; 0: whole folds alone."""

    def __post_init__(self) -> None:
        if (
            self.eta < 2
            or not 0.0 <= self.audit_share <= 1.0
            or self.fit_rung_count not in (0, 1, 2)
        ):
            raise ValueError(
                "eta has to be at least 2, the share of audits within 0 and 1, "
                "the number of rungs within a fit 0 to 2"
            )

    def rungs(self, fold_count: int) -> tuple[int, ...]:
        """The numbers of finished folds at which a trial is judged: 1, 3 of 8."""
        rungs, folds = [], 1
        while folds < fold_count:
            rungs.append(folds)
            folds *= self.eta
        return tuple(rungs)

    @property
    def fit_rungs(self) -> tuple[int, ...]:
        """The first fit is judged when one n-th of its steps is done, for each of these n: 9, 3."""
        return tuple(self.eta**power for power in range(self.fit_rung_count, 0, -1))

    def levels(self, fold_count: int) -> tuple[Level, ...]:
        """All places at which trials may be compared, the lowest first."""
        units = sorted({scale.unit for scale in SCALES.values()})
        within = [Level(Fraction(1, n), unit) for n in self.fit_rungs for unit in units]
        return (*within, *map(Level, self.rungs(fold_count)))

    def places(self, reached: int) -> int:
        """How many of those that reached a rung go on."""
        return max(1, reached // self.eta)

    def is_audit(self, trial_seed: int) -> bool:
        """Whether the trial with this seed runs to its end whatever its rank."""
        mixed = (trial_seed * _MIX) & 0xFFFFFFFFFFFFFFFF
        return (mixed >> 11) / float(1 << 53) < self.audit_share


Entry = tuple[float, int]
"""(loss, trial): of equal losses the earlier trial is the better one."""


class Rung:
    """The losses of all trials that reached it, and those of them that were put off here."""

    def __init__(self, reached: Iterable[Entry] = (), paused: Iterable[Entry] = ()) -> None:
        self._reached = sorted(reached)
        self._paused = sorted(paused)

    def copy(self) -> "Rung":
        twin = Rung()
        twin._reached, twin._paused = list(self._reached), list(self._paused)
        return twin

    def reach(self, entry: Entry) -> None:
        place = bisect_left(self._reached, entry)
        if self._reached[place : place + 1] != [entry]:
            self._reached.insert(place, entry)

    def pause(self, entry: Entry) -> None:
        if not self.has_paused(entry):
            insort(self._paused, entry)

    def resume(self, entry: Entry) -> None:
        """It is not put off (any more)."""
        if self.has_paused(entry):
            self._paused.pop(bisect_left(self._paused, entry))

    def has_paused(self, entry: Entry) -> bool:
        place = bisect_left(self._paused, entry)
        return self._paused[place : place + 1] == [entry]

    def keeps(self, entry: Entry, rule: Halving) -> bool:
        """Whether a trial of this loss is among the best of those that reached it, itself
        included."""
        place = bisect_left(self._reached, entry)
        known = self._reached[place : place + 1] == [entry]
        return place < rule.places(len(self._reached) + (not known))

    def promotable(self, rule: Halving, without: Container[int] = ()) -> Entry | None:
        """The best trial that was put off and is among the best now."""
        best = self.best_paused(without)
        return best if best is not None and self.keeps(best, rule) else None

    def best_paused(self, without: Container[int] = ()) -> Entry | None:
        return next((e for e in self._paused if e[1] not in without), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What trials that were spared say about those that were not."""

    paused_count: int = 0
    """Trials that are put off now, or were when the search ended."""
    held_count: int = 0
    """Audits that were to be put off, and ran to their end."""
    improved_count: int = 0
    """Those of them that were better than every trial before."""

    @property
    def expected_misses(self) -> float:
        """Improvements that were lost with what is put off, as the audits let expect."""
        return self.paused_count * self.improved_count / self.held_count if self.held_count else 0.0
