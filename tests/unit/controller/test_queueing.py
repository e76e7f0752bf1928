"""The wait for the first lease: what it costs, how it is told, and how it ends."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from allotment_controller.adapters.codec import plan_from_json, plan_to_json
from allotment_controller.domain.budget import check_budget, given, with_budget
from allotment_controller.domain.experiment import (
    Budget,
    BudgetStart,
    Experiment,
    ExperimentSpec,
    ExperimentState,
    Plan,
)
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.model import Model
from allotment_controller.domain.queueing import granted, paused, resumed
from allotment_controller.domain.scheduler import Effects, Policy, advance, begin_finish
from allotment_controller.domain.task import Metric, Split, SplitMethod, TaskType, Wait
from allotment_core.errors import InvalidArgument
from allotment_core.names import ExperimentName, VersionName
from allotment_search import Grammar, TaskShape
from allotment_testkit.clock import ManualClock

GRAMMAR = Grammar.load("tabular")
NAME = ExperimentName.parse("tenants/t/experiments/e")
NOW = ManualClock().now()
FULL = Wait("POOL_FULL", "3 slots of pools/a100 are held; one that ends makes room", 2)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def experiment(start: BudgetStart = BudgetStart.GRANTED, **budget: object) -> Experiment:
    asked = Budget(**budget)  # type: ignore[arg-type]
    plan = Plan(
        spec=ExperimentSpec(
            dataset_version=VersionName.parse("tenants/t/datasets/d/versions/1"),
            target="y",
            task=TaskType.BINARY,
            metric=Metric.LOG_LOSS,
            budget=asked,
        ),
        classes=("n", "y"),
        feature_columns=("a",),
        shape=TaskShape(task="binary", row_count=300, numeric_count=1),
        split=Split(method=SplitMethod.FOLDS, part_count=5, seed=0),
        warnings=(),
        table=b"",
        create_time=NOW,
        deadline=None,
        budget_start=start,
    )
    return Experiment(name=NAME, plan=given(plan, asked, NOW), revision=1)


def step(
    stands: Experiment, seconds: float, *, hears_allocator: bool = True
) -> tuple[Experiment, Effects]:
    edit = Edit(Ledger(stands), later(seconds))
    rules = Policy(grammar=GRAMMAR, slot_count=1, hears_allocator=hears_allocator)
    effects = advance(edit, [], rules)
    return edit.experiment, effects


def test_waiting_costs_nothing_where_the_first_lease_starts_the_budget() -> None:
    waiting = experiment(wall_time_s=60.0, started_before_s=5.0)
    assert waiting.plan.deadline is None
    assert waiting.plan.start_time is None
    assert step(waiting, 3_600.0)[0].state is ExperimentState.RUNNING
    begun = granted(waiting, later(100.0), later(101.0))
    assert begun.plan.start_time == later(100.0)
    assert begun.plan.deadline == later(160.0)
    assert begun.plan.begin_time == later(100.0)


def test_on_one_machine_it_counts_from_the_command() -> None:
    waiting = experiment(BudgetStart.CREATED, wall_time_s=60.0, started_before_s=5.0)
    assert waiting.plan.deadline == later(55.0)
    assert waiting.plan.start_time == NOW
    assert granted(waiting, later(1.0), later(1.0)) is waiting


def test_later_leases_change_nothing() -> None:
    begun = granted(experiment(wall_time_s=60.0), later(1.0), later(1.0))
    assert granted(begun, later(30.0), later(30.0)) is begun
    assert granted(begun, None, later(30.0)) is begun


@pytest.mark.parametrize(("by_its_clock", "counts_from"), [(-40.0, 0.0), (7.0, 5.0), (3.0, 3.0)])
def test_the_allocators_clock_moves_the_start_no_further_than_can_be(
    by_its_clock: float, counts_from: float
) -> None:
    begun = granted(experiment(wall_time_s=60.0), later(by_its_clock), later(5.0))
    assert begun.plan.start_time == later(counts_from)


def test_a_wait_longer_than_its_timeout_is_an_error_that_says_what_for() -> None:
    waiting = replace(experiment(wall_time_s=60.0, queue_timeout_s=600.0), wait=FULL)
    assert step(waiting, 599.0)[0].state is ExperimentState.RUNNING
    assert step(waiting, 1.0)[1].wake_at == later(600.0)
    ended, _ = step(waiting, 600.0)
    assert ended.state is ExperimentState.FAILED
    assert ended.end_time == later(600.0)
    assert ended.problem is not None
    assert ended.problem.reason == "QUEUE_TIMEOUT"
    for part in ("600 s", "POOL_FULL", "one that ends makes room", "not even the constant"):
        assert part in ended.problem.message


def test_models_of_before_outlive_a_wait_that_was_given_up() -> None:
    before = replace(experiment(trial_count=3), state=ExperimentState.SUCCEEDED, best_model=2)
    again = with_budget(before, Budget(trial_count=2, queue_timeout_s=5.0), 3, later(100.0))
    assert again.plan.queue_deadline == later(105.0)
    ended, _ = step(again, 105.0)
    assert ended.state is ExperimentState.FAILED
    assert ended.best_model == 2
    assert ended.problem is not None
    assert "model 2 stays the best" in ended.problem.message


def test_an_export_under_way_is_not_waited_for_when_the_wait_is_given_up() -> None:
    edit = Edit(Ledger(experiment(trial_count=3, queue_timeout_s=5.0)), later(5.0))
    model = Model(experiment=NAME, number=1, trial=1, score=0.5, create_time=NOW)
    edit.put_model(model)
    effects = advance(edit, [], Policy(grammar=GRAMMAR, slot_count=1))
    assert [m.number for m in effects.withdrawn] == [1]


@pytest.mark.parametrize("start", list(BudgetStart))
def test_a_lease_ends_the_wait_for_good(start: BudgetStart) -> None:
    begun = granted(experiment(start, trial_count=3, queue_timeout_s=5.0), later(4.0), later(4.0))
    assert begun.plan.queue_deadline is None
    assert step(begun, 60.0)[0].state is ExperimentState.RUNNING
    again = resumed(paused(begun), later(61.0))
    assert again.plan.queue_deadline is None


def test_a_lease_may_have_come_while_the_allocator_could_not_say_so() -> None:
    waiting = experiment(trial_count=3, queue_timeout_s=5.0)
    assert step(waiting, 6.0, hears_allocator=False)[0].state is ExperimentState.RUNNING
    assert step(waiting, 30.0, hears_allocator=False)[0].state is ExperimentState.FAILED


def test_a_paused_experiment_stands_in_no_queue() -> None:
    waiting = experiment(trial_count=3, queue_timeout_s=5.0)
    put_off = paused(waiting.to(ExperimentState.PAUSED))
    assert put_off.plan.queue_deadline is None
    assert step(put_off, 600.0)[0].state is ExperimentState.PAUSED
    again = resumed(put_off.to(ExperimentState.RUNNING), later(600.0))
    assert again.plan.queue_deadline == later(605.0)


def test_who_cancels_while_waiting_waits_no_longer() -> None:
    edit = Edit(Ledger(experiment(wall_time_s=60.0, queue_timeout_s=5.0)), later(1.0))
    effects = Effects()
    begin_finish(edit, effects, ExperimentState.CANCELLED, "CANCELLED")
    advance(edit, [], Policy(grammar=GRAMMAR, slot_count=1))
    assert edit.experiment.state is ExperimentState.CANCELLED


def test_a_new_budget_counts_from_a_lease_that_is_held_already() -> None:
    begun = granted(experiment(wall_time_s=60.0), later(1.0), later(1.0))
    longer = with_budget(begun, Budget(wall_time_s=30.0), 0, later(20.0))
    assert longer.plan.deadline is None
    kept = granted(longer, later(1.0), later(20.0))
    assert kept.plan.deadline == later(50.0)


def test_what_a_plan_began_with_is_stored() -> None:
    for stands in (
        experiment(wall_time_s=60.0, queue_timeout_s=5.0),
        granted(experiment(wall_time_s=60.0, queue_timeout_s=5.0), later(2.0), later(2.0)),
        experiment(BudgetStart.CREATED, trial_count=4),
    ):
        assert plan_from_json(plan_to_json(stands.plan), b"") == stands.plan


@pytest.mark.parametrize("timeout_s", [0.0, 0.9, -5.0, 1e9])
def test_a_timeout_that_can_be_no_wait_is_refused(timeout_s: float) -> None:
    with pytest.raises(InvalidArgument, match="queue_timeout") as caught:
        check_budget(Budget(trial_count=1, queue_timeout_s=timeout_s))
    assert caught.value.reason == "INVALID_QUEUE_TIMEOUT"


def test_plans_of_before_count_from_their_call() -> None:
    raw = json.loads(plan_to_json(experiment(BudgetStart.CREATED, wall_time_s=60.0).plan))
    new = ("budget_start", "grant_time", "queue_timeout_s", "queue_deadline")
    old = plan_from_json(json.dumps({k: v for k, v in raw.items() if k not in new}), b"")
    assert old.start_time == NOW
    assert old.deadline == later(60.0)
    assert not old.waits_for_grant


def test_the_version_before_reads_what_it_knows_of_a_plan() -> None:
    raw = json.loads(plan_to_json(experiment(wall_time_s=60.0, queue_timeout_s=5.0).plan))
    assert raw["spec"]["budget"].keys() == {"wall_time_s", "started_before_s", "trial_count"}
