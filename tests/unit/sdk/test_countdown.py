"""When a run's budget is over, and what is shown while nothing counts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from allotment import convert
from allotment.cli.countdown import Countdown
from allotment.cli.view import View, waiting
from allotment.types import BudgetStart, Experiment, ExperimentState, Wait
from allotment_api.search.v1 import search_pb2
from allotment_api.search.v1.search_pb2 import EXPERIMENT_STATE_RUNNING

START = datetime(2026, 1, 1, tzinfo=UTC)
FULL = Wait(reason="POOL_FULL", message="3 slots are held; one that ends makes room", position=2)


def experiment(**fields: object) -> Experiment:
    wire = search_pb2.Experiment(name="tenants/t/experiments/e", state=EXPERIMENT_STATE_RUNNING)
    wire.create_time.FromDatetime(START)
    return replace(convert.experiment(wire), **fields)  # type: ignore[arg-type]


QUEUED = experiment(budget_start=BudgetStart.GRANTED, start_time=None)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_commands_start_counts_where_the_server_counts_from_the_call() -> None:
    countdown = Countdown(90.0, 60.0, Clock())
    countdown.heard(experiment())
    assert countdown.ends == 150.0
    assert countdown.left_s == 50.0


def test_nothing_counts_before_the_first_lease() -> None:
    clock = Clock()
    countdown = Countdown(90.0, 60.0, clock)
    countdown.heard(QUEUED)
    assert countdown.ends is None
    clock.now = 4_000.0
    countdown.heard(replace(QUEUED, wait=FULL))
    assert countdown.left_s is None
    begun = replace(QUEUED, start_time=START + timedelta(hours=3))
    countdown.heard(begun)
    assert countdown.ends == 4_060.0
    clock.now = 4_030.0
    countdown.heard(begun)
    assert countdown.ends == 4_060.0


def test_trials_alone_have_no_end_in_time() -> None:
    countdown = Countdown(90.0, None, Clock())
    countdown.heard(replace(QUEUED, start_time=START))
    assert countdown.ends is None


def test_a_server_that_does_not_tell_counts_from_the_creation() -> None:
    told = experiment()
    assert told.start_time == told.create_time
    assert not told.is_queued
    assert QUEUED.is_queued
    assert not replace(QUEUED, state=ExperimentState.FAILED).is_queued


def test_a_wait_is_told_once_with_its_reason_and_what_resolves_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    countdown = Countdown(90.0, 60.0, Clock())
    view = View(as_json=False, countdown=countdown)
    for change in (QUEUED, replace(QUEUED, wait=FULL), replace(QUEUED, wait=FULL, revision=2)):
        countdown.heard(change)
        view.changed(change)
    begun = replace(QUEUED, start_time=START)
    countdown.heard(begun)
    view.changed(begun)
    said = capsys.readouterr().out
    assert said.count("waiting: POOL_FULL, place 2 (3 slots are held; one that ends") == 1
    assert said.count("a trainer is granted: the budget counts from now") == 1


def test_a_wait_without_a_place_has_none() -> None:
    assert waiting(replace(FULL, position=0)).startswith("waiting: POOL_FULL (3 slots")
