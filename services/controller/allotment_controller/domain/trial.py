"""Trials: at-least-once execution, exactly-once recording.

Every move is a function from a trial to the next one. The epoch grows whenever a trial goes back
to the queue: reports of an older epoch, of another lease, or with a sequence that was seen are
void.
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction

from allotment_controller.domain.task import Metric, Problem
from allotment_core.names import ExperimentName, TrialName
from allotment_core.states import Moves
from allotment_search import Derivation
from allotment_search.halving import Amount

STRIKE_LIMIT = 3
LOG_TAIL_LIMIT = 4096
FOLD_LIMIT = 100
"""Scores of more folds are not kept."""
FIT_RUNG_LIMIT = 8
"""Nor are those of more rungs within the first fit."""


class TrialState(enum.Enum):
    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    QUARANTINED = "QUARANTINED"
    CANCELLED = "CANCELLED"


_S = TrialState
TRIAL_MOVES = Moves(
    {
        _S.QUEUED: frozenset({_S.ASSIGNED, _S.CANCELLED}),
        _S.ASSIGNED: frozenset({_S.RUNNING, _S.QUEUED, _S.FAILED, _S.QUARANTINED, _S.CANCELLED}),
        _S.RUNNING: frozenset(
            {
                _S.PAUSED,
                _S.QUEUED,
                _S.SUCCEEDED,
                _S.STOPPED,
                _S.FAILED,
                _S.QUARANTINED,
                _S.CANCELLED,
            }
        ),
        _S.PAUSED: frozenset({_S.RUNNING, _S.QUEUED, _S.CANCELLED}),
        _S.SUCCEEDED: frozenset(),
        _S.STOPPED: frozenset(),
        _S.FAILED: frozenset(),
        _S.QUARANTINED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)


class AttemptCause(enum.Enum):
    """Why an attempt ended without a result."""

    PREEMPTED = "PREEMPTED"
    LOST = "LOST"
    PAUSED = "PAUSED"
    CRASH = "CRASH"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    REFUSED = "REFUSED"


STRIKES = frozenset({AttemptCause.CRASH, AttemptCause.OUT_OF_MEMORY, AttemptCause.TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a finished trial leaves. The sha256s name blobs that its trainer has put."""

    score: float
    metrics: Mapping[str, float]
    fit_s: float
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    graph_sha256: str = ""
    reference_sha256: str = ""
    predictions_sha256: str = ""
    fold_count: int = 1
    validation_row_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a sampler's proposal was computed from, besides the plan and the seed."""

    revision: int
    """Trials that ended later were not seen."""
    trial_count: int
    """How many trials there were."""
    place: int
    """Its place among the proposals that were computed at once, from 0."""
    families: tuple[str, ...]
    left_s: float | None = None
    """Seconds that were left to train; None: plenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    experiment: ExperimentName
    number: int
    derivation: Derivation
    origin: str
    create_time: datetime
    cost_s: float = 0.0
    """What the grammar expects it to take."""
    basis: Basis | None = None
    """None for what follows from the trials before it alone."""
    state: TrialState = TrialState.QUEUED
    epoch: int = 1
    lease: str = ""
    lease_epoch: int = 0
    last_sequence: int = 0
    """The newest report of this epoch that was recorded."""
    attempts: Mapping[AttemptCause, int] = field(default_factory=dict)
    finished_folds: int = 0
    fold_count: int = 0
    interim_score: float | None = None
    result: TrialResult | None = None
    library_versions: Mapping[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    log_tail: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    fold_scores: tuple[float | None, ...] = ()
    """After one fold, after two, ...: as first reported, over all attempts."""
    fit_rung: int = 0
    """Within the first fold: one n-th of its fit is done."""
    fit_scores: Mapping[int, float | None] = field(default_factory=dict)
    """By n, after one n-th of the first fit: as first reported, over all attempts."""
    cleared_folds: Amount = 0
    """It was judged after so much, and goes on."""
    paused_at: Amount = 0
    """After how much it was put off; stays when it is cancelled meanwhile."""
    held_at: Amount = 0
    """It would have been put off after so much, and was spared by lot."""
    improved: bool = False
    """It was spared, and was better than every trial before it."""
    checkpoint_sha256: str = ""
    """A blob of fitted folds to go on from, or of a fit's state; empty: from the start."""
    checkpoint_folds: int = 0
    checkpoint_steps: int = 0
    """Of the first fold's fit, while no fold is fitted."""
    spent_s: float = 0.0
    """Wall seconds of earlier attempts."""
    create_revision: int = 0
    """The experiment's revision once the trial had been begun: what had ended was known then."""
    revision: int = 0

    @property
    def name(self) -> TrialName:
        return TrialName(self.experiment, str(self.number))

    @property
    def family(self) -> str:
        return str(self.derivation[0].value)

    @property
    def is_open(self) -> bool:
        return self.state not in TRIAL_MOVES.final

    @property
    def is_active(self) -> bool:
        """It has not ended, and is not put off."""
        return self.is_open and self.state is not TrialState.PAUSED

    @property
    def is_out(self) -> bool:
        """A trainer has it."""
        return self.state in (TrialState.ASSIGNED, TrialState.RUNNING)

    @property
    def strikes(self) -> int:
        return sum(n for cause, n in self.attempts.items() if cause in STRIKES)

    def hears(self, lease: str, lease_epoch: int, epoch: int, sequence: int) -> bool:
        """Whether a report of this key is news: of this epoch and lease, and not recorded yet."""
        return (
            self.is_out
            and (self.lease, self.lease_epoch, self.epoch) == (lease, lease_epoch, epoch)
            and sequence > self.last_sequence
        )

    @property
    def reached(self) -> Amount:
        """How far this attempt has come."""
        if self.finished_folds or not self.fit_rung:
            return self.finished_folds
        return Fraction(1, self.fit_rung)

    def loss_after(self, amount: Amount, metric: Metric) -> float | None:
        """None: it has not come so far, or had no score there."""
        if isinstance(amount, int):
            score = self.fold_scores[amount - 1] if amount <= len(self.fold_scores) else None
        else:
            score = self.fit_scores.get(amount.denominator)
        return None if score is None else metric.loss(score)

    @property
    def waits_at(self) -> Amount:
        """After how much it is put off now; 0: it is not."""
        return self.paused_at if self.state is TrialState.PAUSED else 0

    @property
    def taken_s(self) -> float | None:
        """Wall seconds of all its attempts; None before its end."""
        if self.start_time is None or self.end_time is None:
            return None
        return self.spent_s + (self.end_time - self.start_time).total_seconds()

    def _to(self, state: TrialState) -> "Trial":
        TRIAL_MOVES.check(self.state, state, what=str(self.name))
        return replace(self, state=state)

    def assigned(self, lease: str, lease_epoch: int) -> "Trial":
        """Sent to the trainer of a lease."""
        return replace(
            self._to(TrialState.ASSIGNED), lease=lease, lease_epoch=lease_epoch, last_sequence=0
        )

    def started(self, sequence: int, now: datetime) -> "Trial":
        moved = self._to(TrialState.RUNNING)
        return replace(moved, last_sequence=sequence, start_time=now)

    def _running(self, sequence: int, now: datetime) -> "Trial":
        """It is running, also when the report that said so was lost."""
        if self.state is TrialState.RUNNING:
            return replace(self, last_sequence=sequence)
        return self.started(sequence, now)

    def progressed(
        self,
        sequence: int,
        finished: int,
        folds: int,
        score: float | None,
        now: datetime,
        fit_rung: int = 0,
    ) -> "Trial":
        """After a fold; with a `fit_rung` n after one n-th of the first fit."""
        known = score if score is not None and math.isfinite(score) else None
        scores, fit_scores = self.fold_scores, self.fit_scores
        if fit_rung and fit_rung not in fit_scores and len(fit_scores) < FIT_RUNG_LIMIT:
            fit_scores = {**fit_scores, fit_rung: known}
        if len(scores) < finished <= FOLD_LIMIT:
            scores = (*scores, *(None,) * (finished - 1 - len(scores)), known)
        return replace(
            self._running(sequence, now),
            finished_folds=finished,
            fold_count=folds,
            interim_score=known,
            fold_scores=scores,
            fit_rung=fit_rung,
            fit_scores=fit_scores,
        )

    def cleared(self, amount: Amount) -> "Trial":
        """Judged after so much: it goes on."""
        return replace(self, cleared_folds=max(self.cleared_folds, amount))

    def spared(self, amount: Amount) -> "Trial":
        """It would have been put off, and goes on all the same."""
        return replace(self.cleared(amount), held_at=self.held_at or amount)

    def marked_improved(self) -> "Trial":
        return replace(self, improved=True)

    def put_off(self, now: datetime) -> "Trial":
        """Others did better: its trainer leaves it, and hands in a checkpoint if there is one."""
        return replace(
            self._to(TrialState.PAUSED),
            paused_at=self.reached,
            spent_s=self._spent_s(now),
            start_time=None,
        )

    def taken_up(self) -> "Trial":
        """Back to the queue, next epoch; it is not judged again where it was put off."""
        return replace(
            self._to(TrialState.QUEUED),
            cleared_folds=max(self.cleared_folds, self.paused_at),
            paused_at=0,
            epoch=self.epoch + 1,
            lease="",
            lease_epoch=0,
            last_sequence=0,
        )

    def kept(self, checkpoint_sha256: str, folds: int, steps: int = 0) -> "Trial":
        """With a checkpoint to go on from. One of any attempt is as good: the more folds the
        better, and before the first one the more steps of its fit."""
        further = (folds, steps) > (self.checkpoint_folds, self.checkpoint_steps)
        if not (self.is_open and checkpoint_sha256 and further):
            return self
        return replace(
            self,
            checkpoint_sha256=checkpoint_sha256,
            checkpoint_folds=folds,
            checkpoint_steps=steps,
        )

    def _spent_s(self, now: datetime) -> float:
        started = self.start_time
        return self.spent_s + ((now - started).total_seconds() if started is not None else 0.0)

    def succeeded(
        self, sequence: int, result: TrialResult, versions: Mapping[str, str], now: datetime
    ) -> "Trial":
        """Finished; STOPPED instead when its score is not a number."""
        running = self._running(sequence, now)
        if not math.isfinite(result.score):
            return running.stopped(sequence, now)
        return replace(
            running._to(TrialState.SUCCEEDED),
            result=result,
            library_versions=versions,
            finished_folds=result.fold_count,
            fold_count=result.fold_count,
            problem=None,
            end_time=now,
        )

    def stopped(self, sequence: int, now: datetime) -> "Trial":
        """Ended because its score was not a number."""
        return replace(
            self._running(sequence, now)._to(TrialState.STOPPED),
            problem=Problem("NOT_A_NUMBER", "its score is not a finite number"),
            end_time=now,
        )

    def ended_attempt(
        self, cause: AttemptCause, problem: Problem | None, log_tail: str, now: datetime
    ) -> "Trial":
        """Back to the queue, next epoch; FAILED if refused, QUARANTINED at the last strike."""
        attempts = {**self.attempts, cause: self.attempts.get(cause, 0) + 1}
        counted = replace(
            self,
            attempts=attempts,
            problem=problem if cause in STRIKES or cause is AttemptCause.REFUSED else self.problem,
            log_tail=log_tail[-LOG_TAIL_LIMIT:] or self.log_tail,
        )
        if cause is AttemptCause.REFUSED:
            return replace(counted._to(TrialState.FAILED), end_time=now)
        if counted.strikes >= STRIKE_LIMIT and cause in STRIKES:
            return replace(counted._to(TrialState.QUARANTINED), end_time=now)
        return replace(
            counted._to(TrialState.QUEUED),
            epoch=self.epoch + 1,
            lease="",
            lease_epoch=0,
            last_sequence=0,
            finished_folds=0,
            fit_rung=0,
            interim_score=None,
            spent_s=self._spent_s(now),
            start_time=None,
        )

    def cancelled(self, now: datetime) -> "Trial":
        return replace(self._to(TrialState.CANCELLED), interim_score=None, end_time=now)
