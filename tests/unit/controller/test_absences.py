"""Trials whose trainer is gone: which ends are free."""

from datetime import UTC, datetime
from typing import Any

import pytest

from allotment_controller.domain.absences import Absences
from allotment_controller.domain.messages import LeaseView
from allotment_controller.domain.trial import AttemptCause, Trial, TrialState
from allotment_core.names import ExperimentName, LeaseName
from allotment_search import Grammar
from allotment_testkit.clock import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOLDER = ExperimentName.parse("tenants/t/experiments/e")
LEASE = LeaseName.parse("tenants/t/leases/l")


class Ledger:
    """One trial that is out."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.now = NOW

    def active_trials(self) -> list[Trial]:
        return [self.trial]

    def put_trial(self, trial: Trial) -> None:
        self.trial = trial


class Keeper:
    answers = True

    def __init__(self, view: LeaseView) -> None:
        self._view = view

    def lease(self, _name: str) -> LeaseView:
        return self._view


def taken_back(trainer_end: str, lease_epoch: int = 2) -> Trial:
    """A trial of the lease's first epoch."""
    derivation = Grammar.load("tabular").default("linear")
    trial = Trial(
        experiment=HOLDER, number=1, derivation=derivation, origin="DEFAULT", create_time=NOW
    ).assigned(str(LEASE), 1)
    view = LeaseView(
        name=LEASE, holder=HOLDER, state="HELD", epoch=lease_epoch, trainer_end=trainer_end
    )
    ledger: Any = Ledger(trial)
    keeper: Any = Keeper(view)
    Absences(keeper, {}, ManualClock(), 10.0).take_back(ledger)  # type: ignore[arg-type]
    taken: Trial = ledger.trial
    return taken


def test_a_trainer_that_used_too_much_memory_is_a_strike_with_its_reason() -> None:
    trial = taken_back("OUT_OF_MEMORY")
    assert trial.attempts == {AttemptCause.OUT_OF_MEMORY: 1}
    assert trial.strikes == 1
    assert trial.problem is not None
    assert "memory" in trial.problem.message
    assert trial.state is TrialState.QUEUED


@pytest.mark.parametrize("end", ["", "DISRUPTED", "CRASHED", "SOMETHING_NEWER"])
def test_a_pod_that_was_disrupted_or_lost_is_free(end: str) -> None:
    trial = taken_back(end)
    assert trial.attempts == {AttemptCause.LOST: 1}
    assert trial.strikes == 0


def test_the_end_of_a_later_epochs_trainer_says_nothing_about_this_one() -> None:
    assert taken_back("OUT_OF_MEMORY", lease_epoch=3).strikes == 0
