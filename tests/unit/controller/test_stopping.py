"""Early stopping of an experiment: who is put off, who comes back, and that it replays."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from allotment_controller.adapters.codec import trial_fields_from_json, trial_to_json
from allotment_controller.domain.creation import Wish, make_plan
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentState
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.messages import Hello, OfferedFamily
from allotment_controller.domain.ports import ColumnView, TableView, TargetView
from allotment_controller.domain.scheduler import Effects, Policy, advance
from allotment_controller.domain.seat import Seat
from allotment_controller.domain.stopping import improved, judged, rungs_of
from allotment_controller.domain.task import TaskType
from allotment_controller.domain.trial import AttemptCause, Trial, TrialResult, TrialState
from allotment_core.names import ExperimentName, LeaseName, VersionName
from allotment_search import Grammar
from allotment_search.halving import SCALES, Halving, Level
from allotment_testkit.clock import ManualClock

GRAMMAR = Grammar.load("tabular")
NAME = ExperimentName.parse("tenants/t/experiments/e")
VERSION = VersionName.parse("tenants/t/datasets/d/versions/1")
RULE = Halving(least_saving_s=0.0, audit_share=0.0)


def made_up(trial: Trial) -> float:
    """A final loss between 0 and 1 that looks random and is the trial's own."""
    return (trial.number * 0.6180339887) % 1.0


class Search:
    """One experiment with one trainer that takes no time."""

    def __init__(
        self,
        rule: Halving = RULE,
        loss: Callable[[Trial], float] = made_up,
        within: bool = False,
        **wish: Any,
    ) -> None:
        self.rule, self.loss = rule, loss
        self.within = within
        """It tells of rungs within the first fit, too."""
        self.clock = ManualClock()
        self.ledger = Ledger(Experiment(name=NAME, plan=self._plan(**wish), revision=1))
        self.policy = Policy(grammar=GRAMMAR, slot_count=1, halving=rule)
        families = tuple(OfferedFamily(f) for f in GRAMMAR.families)
        hello = Hello(
            lease=LeaseName.parse("tenants/t/leases/l"),
            lease_epoch=1,
            families=families,
            library_versions={},
            threads=1,
            memory_bytes=1,
            running=(),
        )
        self.seat = Seat(hello, NAME)
        self.seat.connect()
        self.seat.unsure = False
        self.fitted_folds = 0
        self.fold_count = self.ledger.experiment.plan.split.fit_count

    def _plan(self, trial_count: int = 40, time_column: str = "", **wish: Any) -> Any:
        columns = tuple(ColumnView(name=n, type="numeric", ignored=False) for n in "aby")
        table = TableView(version=VERSION, row_count=3000, columns=columns, warnings=(), table=b"")
        target = TargetView(
            task=TaskType.BINARY, labelled_row_count=3000, classes=("n", "y"), warnings=()
        )
        asked = Wish(
            dataset_version=VERSION,
            target="y",
            task=None,
            metric=None,
            budget=Budget(trial_count=trial_count),
            max_parallel_trials=0,
            seed=11,
            ignored_columns=(),
            weight_column="",
            group_column="",
            time_column=time_column,
            families=(),
            **wish,
        )
        return make_plan(asked, table, target, GRAMMAR, self.clock.now())

    def step(self, alter: Callable[[Edit, Effects], None] = lambda edit, effects: None) -> Effects:
        self.clock.advance(0.01)
        edit = Edit(self.ledger, self.clock.now())
        before = Effects()
        alter(edit, before)
        out = any(t.is_out for t in edit.open_trials())
        effects = advance(edit, [] if out else [self.seat], self.policy)
        change = edit.close()
        still_open = edit.open_trials()
        assert edit.open_count == len(still_open)
        assert edit.active_trials() == [t for t in still_open if t.state is not TrialState.PAUSED]
        if change is not None:
            self.ledger.absorb(change)
        return effects

    def tell_fold(self, number: int, fold: int, score: float | None, fit_rung: int = 0) -> Trial:
        def alter(edit: Edit, effects: Effects) -> None:
            trial = self.ledger.trials[number]
            told = trial.progressed(
                trial.last_sequence + 1, fold, self.fold_count, score, edit.now, fit_rung
            )
            edit.put_trial(told)
            edit.put_trial(judged(edit, told, self.rule))

        self.step(alter)
        return self.ledger.trials[number]

    def train(self, number: int) -> None:
        """All folds, or until it is put off."""
        trial = self.ledger.trials[number]
        rungs = rungs_of(self.ledger.experiment.plan, trial, self.rule)
        for rung in rungs if self.within and not trial.checkpoint_folds else ():
            if rung < 1:
                trial = self.tell_fold(number, 0, self.loss(trial), rung.denominator)
            if trial.state in (TrialState.PAUSED, TrialState.CANCELLED):
                self.step()
                return
        for fold in range(trial.checkpoint_folds + 1, self.fold_count + 1):
            self.fitted_folds += 1
            trial = self.tell_fold(number, fold, self.loss(trial))
            if trial.state is not TrialState.RUNNING:
                break
        if trial.state is not TrialState.RUNNING:
            kept = trial.kept("c" * 64, trial.finished_folds)
            self.step(lambda edit, effects: _put(edit, kept))
            return

        def alter(edit: Edit, effects: Effects) -> None:
            result = TrialResult(score=self.loss(trial), metrics={}, fit_s=0.1, fold_count=1)
            done = trial.succeeded(trial.last_sequence + 1, result, {}, edit.now)
            edit.put_trial(done)
            edit.put_trial(improved(edit, done))

        self.step(alter)

    def run(self) -> "Search":
        self.step()
        while not self.ledger.experiment.ended:
            out = [t for t in self.ledger.trials.values() if t.is_out]
            if not out:
                break
            self.train(out[0].number)
        return self

    def of(self, state: TrialState) -> list[Trial]:
        return [t for t in self.ledger.trials.values() if t.state is state]

    @property
    def is_over(self) -> bool:
        return self.ledger.experiment.state in (ExperimentState.FINISHING,) or (
            self.ledger.experiment.ended
        )


def _put(edit: Edit, trial: Trial) -> None:
    edit.put_trial(trial)


def test_most_trials_are_put_off_and_the_best_is_not() -> None:
    search = Search().run()
    assert search.is_over
    done = search.of(TrialState.SUCCEEDED)
    everyone = search.ledger.trials.values()
    best = min((t for t in everyone if t.family != "constant"), key=made_up)
    assert best in done
    assert len(everyone) == 40
    assert search.fitted_folds < 0.7 * 8 * 40, "it saves folds"
    put_off = [t for t in everyone if t.paused_at]
    assert {t.state for t in put_off} <= {TrialState.CANCELLED, TrialState.SUCCEEDED}
    assert search.ledger.experiment.early_stopping.paused_count == len(
        [t for t in put_off if t.state is TrialState.CANCELLED]
    )


def test_without_early_stopping_every_trial_runs_to_its_end() -> None:
    search = Search(without_early_stopping=True).run()
    assert len(search.of(TrialState.SUCCEEDED)) == 40


def test_the_same_seed_and_scores_put_the_same_trials_off() -> None:
    one, two = Search().run(), Search().run()
    assert one.ledger.trials == two.ledger.trials
    assert one.ledger.experiment == two.ledger.experiment


def test_nothing_is_put_off_before_the_grace_is_over() -> None:
    search = Search(replace(RULE, grace=1000)).run()
    assert len(search.of(TrialState.SUCCEEDED)) == 40


def test_defaults_and_the_constant_are_never_put_off() -> None:
    search = Search(loss=lambda t: 9.0 if t.origin in ("CONSTANT", "DEFAULT") else made_up(t)).run()
    spared = [t for t in search.ledger.trials.values() if t.origin in ("CONSTANT", "DEFAULT")]
    assert spared
    assert {t.state for t in spared} == {TrialState.SUCCEEDED}


def test_a_cheap_trial_is_not_worth_putting_off() -> None:
    search = Search(replace(RULE, least_saving_s=1e9)).run()
    assert len(search.of(TrialState.SUCCEEDED)) == 40


def test_trials_that_only_get_better_are_never_put_off() -> None:
    search = Search(loss=lambda t: 1.0 / t.number).run()
    assert len(search.of(TrialState.SUCCEEDED)) == 40


def test_what_was_put_off_comes_back_when_worse_trials_arrive() -> None:
    # The later half is worse than everything before.
    search = Search(loss=lambda t: made_up(t) + (5.0 if t.number > 25 else 0.0)).run()
    came_back = [t for t in search.ledger.trials.values() if t.epoch > 1]
    assert came_back
    assert all(made_up(t) < 0.55 and len(t.fold_scores) >= 3 for t in came_back)
    assert all(t.checkpoint_folds in (1, 3) for t in came_back)


def test_audits_run_to_their_end_and_tell_what_was_lost() -> None:
    search = Search(replace(RULE, audit_share=1.0)).run()
    assert len(search.of(TrialState.SUCCEEDED)) == 40
    held = [t for t in search.ledger.trials.values() if t.held_at]
    audit = search.ledger.experiment.early_stopping
    assert audit.paused_count == 0
    assert audit.held_count == len(held) > 0
    assert audit.improved_count == len([t for t in held if t.improved])


def test_a_late_bloomer_that_was_spared_counts_as_an_improvement() -> None:
    search = Search(replace(RULE, audit_share=1.0), loss=lambda t: 0.5 + 0.01 * t.number)
    search.step()
    while not search.is_over:
        [trial] = [t for t in search.ledger.trials.values() if t.is_out]
        if trial.number == 30:
            for fold in range(1, 4):
                search.tell_fold(30, fold, 9.0)
            search.loss = lambda t: 0.1 if t.number == 30 else 1.0
        search.train(trial.number)
    assert search.ledger.trials[30].improved
    assert search.ledger.experiment.early_stopping.improved_count == 1


def test_the_ledger_that_is_read_again_stands_where_it_stood() -> None:
    search = Search().run()
    again = Ledger(search.ledger.experiment, search.ledger.trials.values())
    assert again.audit == search.ledger.audit
    for folds, rung in search.ledger.rungs.items():
        assert again.rungs[folds]._reached == rung._reached
        assert again.rungs[folds]._paused == rung._paused


def test_a_score_that_is_not_there_puts_nothing_off() -> None:
    search = Search()
    search.step()
    for _ in range(20):
        [trial] = [t for t in search.ledger.trials.values() if t.is_out]
        search.train(trial.number)
    [trial] = [t for t in search.ledger.trials.values() if t.is_out]
    while trial.checkpoint_folds or trial.family != "lightgbm":
        search.train(trial.number)
        [trial] = [t for t in search.ledger.trials.values() if t.is_out]
    after = search.tell_fold(trial.number, 1, None)
    assert after.state is TrialState.RUNNING
    assert after.cleared_folds == 1
    assert after.loss_after(1, search.ledger.experiment.plan.spec.metric) is None


def test_trials_are_put_off_within_their_first_fit_and_the_best_is_not() -> None:
    whole, search = Search().run(), Search(within=True).run()
    everyone = search.ledger.trials.values()
    best = min((t for t in everyone if t.family != "constant"), key=made_up)
    assert best.state is TrialState.SUCCEEDED
    assert search.fitted_folds < whole.fitted_folds
    within = [t for t in everyone if 0 < t.paused_at < 1]
    assert within
    assert {t.family for t in within} <= SCALES.keys()
    assert {t.paused_at for t in within} <= {Fraction(1, 9), Fraction(1, 3)}
    assert all(not t.finished_folds for t in within)


def test_a_hold_out_is_judged_within_its_one_fit() -> None:
    search = Search(within=True, time_column="a").run()
    assert search.is_over
    everyone = search.ledger.trials.values()
    put_off = [t for t in everyone if t.state is TrialState.CANCELLED]
    assert put_off
    assert all(t.family in SCALES and 0 < t.paused_at < 1 for t in put_off)
    assert search.fitted_folds == len(everyone) - len(put_off)


def test_within_a_fit_trials_of_one_unit_alone_are_compared() -> None:
    search = Search(within=True, trial_count=60).run()
    at = Fraction(1, 9)
    metric = search.ledger.experiment.plan.spec.metric
    for unit in ("rounds", "epochs"):
        told = {
            (t.loss_after(at, metric), t.number)
            for t in search.ledger.trials.values()
            if t.family in SCALES and SCALES[t.family].unit == unit and t.fit_scores
        }
        assert told
        assert set(search.ledger.rungs[Level(at, unit)]._reached) == told


def test_what_was_put_off_within_a_fit_comes_back() -> None:
    search = Search(within=True, loss=lambda t: made_up(t) + (5.0 if t.number > 20 else 0.0)).run()
    came_back = [t for t in search.ledger.trials.values() if t.epoch > 1 and 9 in t.fit_scores]
    assert any(t.fold_scores for t in came_back)
    assert all(t.cleared_folds > 0 for t in came_back)


def test_the_same_seed_puts_the_same_trials_off_within_their_fits() -> None:
    one, two = Search(within=True).run(), Search(within=True).run()
    assert one.ledger.trials == two.ledger.trials
    again = Ledger(one.ledger.experiment, one.ledger.trials.values())
    assert again.audit == one.ledger.audit
    for level, rung in one.ledger.rungs.items():
        assert again.rungs[level]._reached == rung._reached
        assert again.rungs[level]._paused == rung._paused


def test_audits_within_a_fit_run_to_their_end() -> None:
    search = Search(replace(RULE, audit_share=1.0), within=True).run()
    assert len(search.of(TrialState.SUCCEEDED)) == 40
    held = [t for t in search.ledger.trials.values() if 0 < t.held_at < 1]
    assert held


def test_stored_trials_come_back_as_they_were() -> None:
    for trial in Search(within=True).run().ledger.trials.values():
        body = trial_fields_from_json(trial_to_json(trial))
        assert replace(trial, **body) == trial


class TestOneTrial:
    def trial(self) -> Trial:
        now = ManualClock().now()
        trial = Trial(
            experiment=NAME,
            number=7,
            derivation=GRAMMAR.default("lightgbm"),
            origin="RANDOM",
            create_time=now,
            cost_s=9.0,
        )
        return trial.assigned("tenants/t/leases/l", 1).started(1, now)

    def test_it_is_judged_at_each_rung_once(self) -> None:
        plan = Search().ledger.experiment.plan
        trial = self.trial()
        assert rungs_of(plan, trial, RULE) == (Fraction(1, 9), Fraction(1, 3), 1, 3)
        assert rungs_of(plan, trial, replace(RULE, fit_rung_count=0)) == (1, 3)
        assert rungs_of(plan, trial.cleared(1), RULE) == (3,)
        now = ManualClock().now()
        paused = trial.progressed(2, 1, 8, 0.5, now).put_off(now)
        assert rungs_of(plan, paused.taken_up(), RULE) == (3,)

    def test_a_checkpoint_of_any_attempt_is_taken_and_more_folds_win(self) -> None:
        now = ManualClock().now()
        paused = self.trial().progressed(2, 3, 8, 0.5, now).put_off(now)
        kept = paused.kept("a" * 64, 3)
        assert (kept.checkpoint_sha256, kept.checkpoint_folds) == ("a" * 64, 3)
        assert kept.kept("b" * 64, 2) is kept
        queued = kept.taken_up()
        assert (queued.state, queued.epoch, queued.checkpoint_folds) == (TrialState.QUEUED, 2, 3)
        assert queued.kept("d" * 64, 4).checkpoint_sha256 == "d" * 64
        ended = queued.cancelled(now)
        assert ended.kept("e" * 64, 8) is ended

    def test_before_the_first_fold_more_steps_of_its_fit_win(self) -> None:
        kept = self.trial().kept("a" * 64, 0, 12)
        assert (kept.checkpoint_folds, kept.checkpoint_steps) == (0, 12)
        assert kept.kept("b" * 64, 0, 12) is kept
        assert kept.kept("c" * 64, 0, 40).checkpoint_sha256 == "c" * 64
        assert kept.kept("d" * 64, 1).checkpoint_steps == 0

    def test_it_is_put_off_within_its_fit_where_it_was_told_of(self) -> None:
        now = ManualClock().now()
        paused = self.trial().progressed(2, 0, 8, 0.5, now, fit_rung=9).put_off(now)
        assert (paused.waits_at, paused.finished_folds) == (Fraction(1, 9), 0)
        again = paused.taken_up().assigned("tenants/t/leases/l", 1)
        plan = Search().ledger.experiment.plan
        assert rungs_of(plan, again, RULE) == (Fraction(1, 3), 1, 3)
        lost = again.progressed(1, 0, 8, 0.4, now, fit_rung=3).ended_attempt(
            AttemptCause.LOST, None, "", now
        )
        assert lost.reached == 0
        assert lost.fit_scores == {9: 0.5, 3: 0.4}

    def test_late_reports_of_a_trial_that_was_put_off_are_void(self) -> None:
        now = ManualClock().now()
        paused = self.trial().progressed(2, 1, 8, 0.5, now).put_off(now)
        assert not paused.hears("tenants/t/leases/l", 1, 1, 3)
        again = paused.taken_up().assigned("tenants/t/leases/l", 1)
        assert not again.hears("tenants/t/leases/l", 1, 1, 3)
        assert again.hears("tenants/t/leases/l", 1, 2, 1)

    def test_time_counts_over_all_attempts(self) -> None:
        now = ManualClock().now()
        paused = self.trial().progressed(2, 1, 8, 0.5, now).put_off(now + timedelta(seconds=3))
        again = paused.taken_up().assigned("tenants/t/leases/l", 2).started(1, now)
        lost = again.ended_attempt(AttemptCause.LOST, None, "", now + timedelta(seconds=2))
        last = lost.assigned("tenants/t/leases/l", 3).started(1, now)
        result = TrialResult(score=0.1, metrics={}, fit_s=1.0)
        done = last.succeeded(2, result, {}, now + timedelta(seconds=1))
        assert done.taken_s == pytest.approx(6.0)

    def test_scores_stay_as_they_were_first_told(self) -> None:
        now = ManualClock().now()
        trial = self.trial().progressed(2, 1, 8, 0.5, now).progressed(3, 3, 8, 0.4, now)
        assert trial.fold_scores == (0.5, None, 0.4)
        assert trial.progressed(4, 1, 8, 0.9, now).fold_scores == (0.5, None, 0.4)
