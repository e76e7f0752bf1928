"""Trainers that are away: when their trials are taken back, and what is said meanwhile."""

from allotment_controller.domain.experiment import ExperimentState
from allotment_controller.domain.keeper import LeaseKeeper
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.seat import SeatKey, Seats
from allotment_controller.domain.task import Problem, Wait
from allotment_controller.domain.trial import AttemptCause, Trial
from allotment_core.clock import Clock

_WAIT_SHOWN_AFTER_S = 1.0
_OUT_OF_MEMORY = Problem(
    "OUT_OF_MEMORY",
    "its trainer's pod used more memory than its limit while the trial ran; give trainers more "
    "memory, or the experiment fewer rows",
)


class Absences:
    """Of one experiment's trainers."""

    def __init__(
        self, keeper: LeaseKeeper, seats: Seats, clock: Clock, away_grace_s: float
    ) -> None:
        self._keeper = keeper
        self._seats = seats
        self._clock = clock
        self._away_grace_s = away_grace_s
        self._absent_since: dict[SeatKey, float] = {}
        self._short_since: float | None = None

    def look_again_s(self, at_most_s: float) -> float:
        """Seconds after which something may have to be done about them."""
        now = self._clock.monotonic()
        for since in self._absent_since.values():
            at_most_s = min(at_most_s, max(0.05, since + self._away_grace_s - now))
        return at_most_s if self._short_since is None else min(at_most_s, 1.0)

    def take_back(self, edit: Edit) -> None:
        """Requeues trials whose lease has ended, or whose trainer stays away."""
        absent: dict[SeatKey, float] = {}
        for trial in edit.active_trials():
            if not trial.is_out:
                continue
            cause = self._lost_because(trial, absent)
            if cause is not None:
                problem = _OUT_OF_MEMORY if cause is AttemptCause.OUT_OF_MEMORY else None
                edit.put_trial(trial.ended_attempt(cause, problem, "", edit.now))
        self._absent_since = absent

    def _lost_because(self, trial: Trial, absent: dict[SeatKey, float]) -> AttemptCause | None:
        """Why a trial's trainer is gone for good; None while it is there or may come back."""
        view = self._keeper.lease(trial.lease)
        if view is None and self._keeper.answers:
            return AttemptCause.LOST
        if view is not None and view.epoch > trial.lease_epoch:
            at_once = view.epoch == trial.lease_epoch + 1
            if at_once and view.trainer_end == AttemptCause.OUT_OF_MEMORY.value:
                return AttemptCause.OUT_OF_MEMORY
            return AttemptCause.LOST
        seat = self._seats.get(trial.lease, trial.lease_epoch)
        if seat is not None and seat.line is not None:
            return None
        if view is not None and view.state == "REVOKING":
            return AttemptCause.PREEMPTED
        now = self._clock.monotonic()
        key = (trial.lease, trial.lease_epoch)
        since = self._absent_since.get(key, now)
        if now - since >= self._away_grace_s:
            return AttemptCause.LOST
        absent[key] = since
        return None

    def wait(self, edit: Edit, wanted: int) -> Wait | None:
        """Why it runs less than it could, once that has lasted a moment."""
        holder = edit.experiment.name
        seats = self._seats.of(holder)
        present = sum(s.line is not None and not s.leaving for s in seats)
        if edit.experiment.state is not ExperimentState.RUNNING or present >= wanted:
            self._short_since = None
            return None
        now = self._clock.monotonic()
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since < _WAIT_SHOWN_AFTER_S:
            return edit.experiment.wait
        for view in self._keeper.of(holder):
            if view.wait_reason:
                return Wait(view.wait_reason, view.wait_message, view.wait_position)
        if any(v.state == "HELD" for v in self._keeper.of(holder)):
            return Wait("STARTING", "its trainer is starting")
        if (refusal := self._keeper.refusal(holder)) is not None:
            return Wait(refusal.reason, refusal.message)
        return Wait("NO_TRAINER", "the allocator has not granted a lease yet; it is asked again")
