"""Steps of an experiment: pure functions of its history, its seats and the time."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allotment_controller.domain.budget import reserve_s, with_budget
from allotment_controller.domain.creation import Wish, make_plan
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentState
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.messages import Hello, OfferedFamily
from allotment_controller.domain.model import Artefact, Member, Recipe
from allotment_controller.domain.ports import ColumnView, TableView, TargetView
from allotment_controller.domain.scheduler import Effects, Policy, advance, begin_finish
from allotment_controller.domain.seat import Seat
from allotment_controller.domain.task import Metric, Problem, SplitMethod, TaskType
from allotment_controller.domain.trial import AttemptCause, TrialResult, TrialState
from allotment_core.names import ExperimentName, LeaseName, VersionName
from allotment_search import Grammar
from allotment_testkit.clock import ManualClock

GRAMMAR = Grammar.load("tabular")
NAME = ExperimentName.parse("tenants/t/experiments/e")
VERSION = VersionName.parse("tenants/t/datasets/d/versions/1")
POLICY = Policy(grammar=GRAMMAR, slot_count=1)
READY = Artefact(artefact_sha256="a", manifest_sha256="b", size_bytes=1)


def table(row_count: int = 300) -> TableView:
    columns = [ColumnView(name=n, type="numeric", ignored=False) for n in ("a", "b", "y")]
    return TableView(
        version=VERSION, row_count=row_count, columns=tuple(columns), warnings=(), table=b""
    )


def plan(clock: ManualClock, row_count: int = 300, **budget: Any) -> Any:
    wish = Wish(
        dataset_version=VERSION,
        target="y",
        task=None,
        metric=None,
        budget=Budget(**budget),
        max_parallel_trials=0,
        seed=11,
        ignored_columns=(),
        weight_column="",
        group_column="",
        time_column="",
        families=(),
    )
    target = TargetView(
        task=TaskType.BINARY, labelled_row_count=row_count, classes=("n", "y"), warnings=()
    )
    return make_plan(wish, table(row_count), target, GRAMMAR, clock.now())


class Bench:
    """One experiment, moved by hand."""

    def __init__(self, seats: int = 1, **budget: Any) -> None:
        self.clock = ManualClock()
        self.ledger = Ledger(Experiment(name=NAME, plan=plan(self.clock, **budget), revision=1))
        self.seats = [self._seat(n) for n in range(seats)]

    def _seat(self, number: int) -> Seat:
        hello = Hello(
            lease=LeaseName.parse(f"tenants/t/leases/l{number}"),
            lease_epoch=1,
            families=tuple(OfferedFamily(f) for f in GRAMMAR.families),
            library_versions={},
            threads=1,
            memory_bytes=1,
            running=(),
        )
        seat = Seat(hello, NAME)
        seat.connect()
        seat.unsure = False
        return seat

    def step(self, alter: Any = lambda edit, effects: None) -> Effects:
        edit = Edit(self.ledger, self.clock.now())
        first = Effects()
        alter(edit, first)
        effects = advance(edit, self._free(edit), POLICY)
        effects.stopped = first.stopped + effects.stopped
        change = edit.close()
        if change is not None:
            self.ledger.absorb(change)
        return effects

    def _free(self, edit: Edit) -> list[Seat]:
        busy = {t.lease for t in edit.open_trials() if t.is_out}
        return [s for s in self.seats if str(s.lease) not in busy]

    def finish(self, number: int, score: float, taken_s: float = 0.1) -> Effects:
        trial = self.ledger.trials[number]
        start = self.clock.now()
        self.clock.advance(taken_s)

        def alter(edit: Edit, effects: Effects) -> None:
            done = trial.started(1, start).succeeded(
                2, TrialResult(score=score, metrics={}, fit_s=taken_s), {}, edit.now
            )
            edit.put_trial(done)

        return self.step(alter)

    def export(self, number: int) -> Effects:
        def alter(edit: Edit, effects: Effects) -> None:
            model = edit.model(number)
            assert model is not None
            edit.put_model(model.ready(READY, edit.now))
            if edit.experiment.best_score is None or model.score < edit.experiment.best_score:
                edit.experiment = replace(
                    edit.experiment, best_model=number, best_score=model.score
                )

        return self.step(alter)

    def state(self) -> ExperimentState:
        return self.ledger.experiment.state

    def states(self) -> list[TrialState]:
        return [t.state for _, t in sorted(self.ledger.trials.items())]


def test_a_result_and_the_next_assignment_are_one_change() -> None:
    bench = Bench(trial_count=5)
    bench.step()
    before = bench.ledger.experiment.revision
    effects = bench.finish(1, 0.7)
    assert [t.number for _, t, _ in effects.assigned] == [2]
    assert effects.new_models == [1]
    assert bench.states() == [TrialState.SUCCEEDED, TrialState.ASSIGNED]
    rows_revisions = [
        bench.ledger.trials[1].revision,
        bench.ledger.trials[2].revision,
        bench.ledger.models[1].revision,
    ]
    revisions = [*rows_revisions, bench.ledger.experiment.revision]
    assert sorted(revisions) == list(range(before + 1, before + 5))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.0, 5.0), min_size=12, max_size=12), st.integers(0, 1))
def test_decisions_under_a_trial_budget_do_not_depend_on_time(
    durations: list[float], worse: int
) -> None:
    def derivations(pace: list[float]) -> list[Any]:
        bench = Bench(trial_count=12)
        bench.step()
        for number, taken_s in enumerate(pace, start=1):
            bench.finish(number, 1.0 / number + worse, taken_s)
        return [t.derivation for _, t in sorted(bench.ledger.trials.items())]

    assert derivations(durations) == derivations([0.1] * 12)


def test_a_journal_replays_to_the_same_decisions() -> None:
    def run() -> tuple[Any, ...]:
        bench = Bench(seats=2, wall_time_s=30.0)
        bench.step()
        for number in range(1, 8):
            bench.finish(number, 0.9 - 0.05 * number, 0.4)
            if number in bench.ledger.models:
                bench.export(number)
        return tuple(sorted(bench.ledger.trials.items())), tuple(bench.ledger.models.items())

    assert run() == run()


def test_trials_stop_before_the_deadline_and_the_export_in_flight_is_awaited() -> None:
    bench = Bench(wall_time_s=10.0)
    bench.step()
    bench.finish(1, 0.7)
    bench.export(1)
    bench.finish(2, 0.5)
    bench.clock.advance(8.85)
    effects = bench.step()
    assert bench.state() is ExperimentState.FINISHING
    assert [(t.number, why) for t, why in effects.stopped] == [(3, "DEADLINE")]
    assert effects.wanted == 0
    bench.export(2)
    assert bench.state() is ExperimentState.SUCCEEDED
    assert bench.ledger.experiment.best_model == 2


def test_at_the_deadline_the_best_ready_model_is_final() -> None:
    bench = Bench(wall_time_s=10.0)
    bench.step()
    bench.finish(1, 0.7)
    bench.export(1)
    bench.finish(2, 0.5)
    bench.clock.advance(9.0)
    bench.step()
    bench.clock.advance(1.0)
    effects = bench.step()
    assert bench.state() is ExperimentState.SUCCEEDED
    assert [m.number for m in effects.withdrawn] == [2]
    problem = bench.ledger.models[2].problem
    assert problem is not None
    assert problem.reason == "BUDGET_SPENT"


def test_the_first_trial_goes_on_past_the_deadline_while_there_is_no_model() -> None:
    bench = Bench(wall_time_s=10.0)
    bench.step()
    bench.clock.advance(11.0)
    effects = bench.step()
    assert bench.state() is ExperimentState.FINISHING
    assert bench.states() == [TrialState.ASSIGNED]
    assert effects.wanted == 1
    bench.finish(1, 0.7)
    bench.export(1)
    assert bench.state() is ExperimentState.SUCCEEDED


def test_an_experiment_that_slept_through_its_budget_still_gets_a_model() -> None:
    bench = Bench(wall_time_s=10.0)
    bench.clock.advance(100.0)
    bench.step()
    assert bench.states() == [TrialState.ASSIGNED]
    bench.finish(1, 0.7)
    bench.export(1)
    assert bench.state() is ExperimentState.SUCCEEDED
    assert len(bench.ledger.trials) == 1


def test_without_any_model_it_fails_and_says_why() -> None:
    bench = Bench(seats=0, wall_time_s=10.0)
    bench.step()
    bench.clock.advance(10.0)
    bench.step()
    bench.clock.advance(31.0)
    bench.step()
    assert bench.state() is ExperimentState.FAILED
    assert bench.ledger.experiment.problem is not None
    assert bench.ledger.experiment.problem.reason == "NO_MODEL_IN_TIME"


def test_only_the_best_waits_when_exports_are_slower_than_trials() -> None:
    bench = Bench(trial_count=20)
    bench.step()
    for number in range(1, 8):
        bench.finish(number, 1.0 / number)
    assert [m.trial for m in bench.ledger.models.values()] == [1, 2]
    bench.export(1)
    assert [m.trial for m in bench.ledger.models.values()] == [1, 2, 7]


def test_a_worse_model_that_becomes_ready_later_is_not_the_best() -> None:
    bench = Bench(trial_count=20)
    bench.step()
    bench.finish(1, 0.7)
    bench.finish(2, 0.5)
    bench.export(2)
    bench.export(1)
    assert bench.ledger.experiment.best_model == 2


def test_cancel_ends_trials_and_waits_for_the_exports() -> None:
    bench = Bench(trial_count=20)
    bench.step()
    bench.finish(1, 0.7)
    effects = bench.step(
        lambda edit, effects: begin_finish(edit, effects, ExperimentState.CANCELLED, "CANCELLED")
    )
    assert [why for _, why in effects.stopped] == ["CANCELLED"]
    assert bench.state() is ExperimentState.FINISHING
    bench.export(1)
    assert bench.state() is ExperimentState.CANCELLED


def test_a_lost_trial_is_the_next_to_go() -> None:
    bench = Bench(trial_count=20)
    bench.step()
    lost = bench.ledger.trials[1]
    effects = bench.step(
        lambda edit, effects: edit.put_trial(
            lost.ended_attempt(AttemptCause.LOST, None, "", edit.now)
        )
    )
    assert [(t.number, t.epoch) for _, t, _ in effects.assigned] == [(1, 2)]


@given(st.floats(1.0, 10_000.0), st.lists(st.floats(0.0, 20.0), max_size=5))
def test_the_reserve_is_small_and_leaves_most_of_the_budget(
    total_s: float, exports: list[float]
) -> None:
    kept = reserve_s(total_s, exports)
    assert kept >= 0.8
    assert kept <= max(1.5, total_s / 4)


@pytest.mark.parametrize(
    ("row_count", "wall_time_s", "method", "parts"),
    [
        (300, 60.0, SplitMethod.FOLDS, 8),
        (1_000, 10.0, SplitMethod.FOLDS, 5),
        (300_000, 3600.0, SplitMethod.HOLD_OUT, 10),
        (100_000, 10.0, SplitMethod.HOLD_OUT, 10),
        (6, None, SplitMethod.FOLDS, 3),
    ],
)
def test_small_data_is_folded_and_large_data_held_out(
    row_count: int, wall_time_s: float | None, method: SplitMethod, parts: int
) -> None:
    trials = 0 if wall_time_s else 5
    made = plan(ManualClock(), row_count, wall_time_s=wall_time_s, trial_count=trials)
    assert (made.split.method, made.split.part_count) == (method, parts)


def test_the_deadline_counts_what_had_passed_before() -> None:
    clock = ManualClock()
    made = plan(clock, wall_time_s=10.0, started_before_s=4.0)
    assert made.deadline == clock.now() + timedelta(seconds=6)


# Ensembles


def mixing_bench(**budget: Any) -> Bench:
    """Two trials have succeeded, the first is a model; an ensemble is due."""
    bench = Bench(**budget)
    bench.ledger.begin_mixing()
    bench.step()
    bench.finish(1, 0.7)
    bench.export(1)
    bench.finish(2, 0.5)
    return bench


def mixed(bench: Bench, score: float) -> Effects:
    recipe = Recipe(members=(Member(2, 0.75), Member(1, 0.25)), score=score)
    bench.ledger.mix.note(bench.ledger.success_count, recipe, 0.1, Metric.LOG_LOSS)
    return bench.step()


def test_a_trial_waits_for_the_ensemble_that_may_be_better() -> None:
    bench = mixing_bench(trial_count=5)
    assert len(bench.ledger.models) == 1
    assert mixed(bench, 0.4).new_models == [2]
    model = bench.ledger.models[2]
    assert (model.trial, model.score, len(model.members)) == (2, 0.4, 2)
    bench.export(2)
    assert bench.ledger.experiment.best_score == 0.4
    # Neither the trial nor the same ensemble again.
    assert bench.step().new_models == []


def test_without_a_better_ensemble_the_trial_becomes_the_model() -> None:
    bench = mixing_bench(trial_count=5)
    bench.ledger.mix.note(2, None, 0.1)
    assert bench.step().new_models == [2]
    assert bench.ledger.models[2].members == ()


def test_ensembles_exports_leave_time_to_trials_and_the_last_one_is_not_put_off() -> None:
    bench = mixing_bench(trial_count=4)
    mixed(bench, 0.4)
    bench.clock.advance(2.0)
    bench.export(2)
    bench.finish(3, 0.6)
    assert mixed(bench, 0.3).new_models == [], "the last export took 2 s, less than 6 s ago"
    bench.finish(4, 0.6)
    assert bench.state() is ExperimentState.FINISHING, "an ensemble of all four is due"
    assert mixed(bench, 0.2).new_models == [3]
    bench.export(3)
    assert bench.state() is ExperimentState.SUCCEEDED
    assert bench.ledger.experiment.best_score == 0.2


def test_the_end_waits_for_the_last_ensemble_until_the_deadline_only() -> None:
    bench = mixing_bench(wall_time_s=10.0)
    bench.clock.advance(9.0)
    bench.step()
    assert bench.state() is ExperimentState.FINISHING
    bench.clock.advance(1.0)
    bench.step()
    assert bench.state() is ExperimentState.SUCCEEDED
    assert bench.ledger.experiment.best_model == 1


def test_who_cancels_does_not_wait_for_an_ensemble() -> None:
    bench = mixing_bench(trial_count=5)
    bench.step(lambda e, f: begin_finish(e, f, ExperimentState.CANCELLED, "CANCELLED"))
    assert [m.is_trial for m in bench.ledger.models.values()] == [True, True]
    bench.export(2)
    assert bench.state() is ExperimentState.CANCELLED


def test_a_refused_ensemble_is_forgotten() -> None:
    bench = mixing_bench(trial_count=5)
    mixed(bench, 0.4)

    def alter(edit: Edit, effects: Effects) -> None:
        model = edit.model(2)
        assert model is not None
        edit.put_model(model.refused(Problem("NOT_PARITY", "row 1 differs")))

    effects = bench.step(alter)
    effects.new_models += bench.step().new_models
    assert effects.new_models == [3]
    assert bench.ledger.models[3].is_trial
    assert bench.ledger.models[3].trial == 2


def test_failures_before_a_new_budget_do_not_count() -> None:
    bench = Bench(trial_count=30)
    bench.step()

    def fail(edit: Edit, effects: Effects) -> None:
        for trial in edit.open_trials():
            problem = Problem("BAD_DATA", "it broke")
            edit.put_trial(trial.ended_attempt(AttemptCause.REFUSED, problem, "", edit.now))

    for _ in range(10):
        bench.step(fail)
    assert bench.state() is ExperimentState.FAILED
    bench.clock.advance(60.0)

    def resume(edit: Edit, effects: Effects) -> None:
        budget = Budget(trial_count=5)
        edit.experiment = with_budget(edit.experiment, budget, edit.trial_count, edit.now)

    bench.step(resume)
    assert bench.state() is ExperimentState.RUNNING
    newest = max(bench.ledger.trials)
    bench.finish(newest, 0.7)
    bench.export(1)
    assert bench.ledger.experiment.best_model == 1
