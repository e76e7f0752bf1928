"""What is asked of the sampler ahead, and that a break does not change it."""

import asyncio
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from allotment_controller.domain.creation import Wish, make_plan
from allotment_controller.domain.experiment import Budget, Experiment
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.messages import Hello, OfferedFamily
from allotment_controller.domain.ports import ColumnView, TableView, TargetView
from allotment_controller.domain.prefetch import Prefetch
from allotment_controller.domain.prepared import Question
from allotment_controller.domain.scheduler import Policy, advance
from allotment_controller.domain.seat import Seat
from allotment_controller.domain.stopping import judged
from allotment_controller.domain.task import TaskType
from allotment_controller.domain.trial import Trial, TrialResult, TrialState
from allotment_core.names import ExperimentName, LeaseName, VersionName
from allotment_search import Derivation, Grammar, Proposal, RandomSampler
from allotment_search.halving import Halving
from allotment_testkit.clock import ManualClock

GRAMMAR = Grammar.load("tabular")
NAME = ExperimentName.parse("tenants/t/experiments/e")
VERSION = VersionName.parse("tenants/t/datasets/d/versions/1")
RULE = Halving(least_saving_s=0.0, audit_share=0.0)
TRIALS = 60


class TellTale:
    """A sampler whose proposal is another one whenever anything that it is shown is."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def warm_up(self) -> None: ...

    async def proposals(self, experiment: str, question: Question) -> list[Proposal]:
        self.questions.append(question)
        shown = repr((question.history.ended, question.history.pending)).encode()
        rng = np.random.default_rng([zlib.crc32(shown), question.seed])
        sampler = RandomSampler(question.grammar, question.shape, question.families)
        drawn = sampler.propose(question.history, question.count, rng)
        return [Proposal(derivation, "TPE") for derivation in drawn]


def loss(trial: Trial, fold: int) -> float:
    """Late trials are bad, so that some that were put off come back, and are good then."""
    first = (trial.number * 0.6180339887) % 1.0 + (5.0 if trial.number > 35 else 0.0)
    return first if fold == 1 else first - 10.0 * (trial.epoch - 1)


class Search:
    """One experiment with one trainer; with ``breaks`` the controller is killed while it trains."""

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.clock = ManualClock()
        self.ledger = Ledger(Experiment(name=NAME, plan=_plan(self.clock), revision=1))
        self.sampling = TellTale()
        self.prefetch = Prefetch(self.sampling, GRAMMAR, lambda: None)
        hello = Hello(
            lease=LeaseName.parse("tenants/t/leases/l"),
            lease_epoch=1,
            families=tuple(OfferedFamily(f) for f in GRAMMAR.families),
            library_versions={},
            threads=1,
            memory_bytes=1,
            running=(),
        )
        self.seat = Seat(hello, NAME)
        self.seat.connect()
        self.seat.unsure = False
        self.came_back_and_ended = 0

    def out(self) -> Trial | None:
        return next((t for t in self.ledger.trials.values() if t.is_out), None)

    async def step(self, *changed: Trial) -> None:
        """One commit, and what the sampler says to it."""
        self.clock.advance(0.01)
        if self.breaks and changed:
            self.ledger = Ledger(self.ledger.experiment, self.ledger.trials.values())
            self.prefetch = Prefetch(self.sampling, GRAMMAR, lambda: None)
        prepared = self.prefetch.prepared(self.ledger)
        edit = Edit(self.ledger, self.clock.now())
        for trial in changed:
            edit.put_trial(trial)
            edit.put_trial(judged(edit, trial, RULE))
        out = any(t.is_out for t in edit.open_trials())
        policy = Policy(grammar=GRAMMAR, slot_count=1, halving=RULE, prepared=prepared)
        advance(edit, [] if out else [self.seat], policy)
        change = edit.close()
        if change is not None:
            self.ledger.absorb(change)
        self.prefetch.committed(
            self.ledger, prepared, self.seat.families, 1, self.clock.now(), None
        )
        for _ in range(5):
            await asyncio.sleep(0)

    async def train(self, trial: Trial) -> None:
        """All folds, or until it is put off."""
        number = trial.number
        for fold in range(trial.checkpoint_folds + 1, 8):
            trial = self.ledger.trials[number]
            now = self.clock.now()
            score = loss(trial, fold)
            await self.step(trial.progressed(trial.last_sequence + 1, fold, 8, score, now))
            trial = self.ledger.trials[number]
            if trial.state is not TrialState.RUNNING:
                return
        self.came_back_and_ended += trial.epoch > 1
        result = TrialResult(score=loss(trial, 8), metrics={}, fit_s=0.1, fold_count=8)
        done = trial.succeeded(trial.last_sequence + 1, result, {}, self.clock.now())
        await self.step(done)

    async def play(self) -> list[Derivation]:
        while len(self.ledger.trials) < TRIALS or self.out():
            trial = self.out()
            if trial is None:
                await self.step()
            else:
                await self.train(trial)
        return [self.ledger.trials[n].derivation for n in sorted(self.ledger.trials)]


def _plan(clock: ManualClock) -> Any:
    columns = tuple(ColumnView(name=n, type="numeric", ignored=False) for n in "aby")
    table = TableView(version=VERSION, row_count=3000, columns=columns, warnings=(), table=b"")
    target = TargetView(
        task=TaskType.BINARY, labelled_row_count=3000, classes=("n", "y"), warnings=()
    )
    wish = Wish(
        dataset_version=VERSION,
        target="y",
        task=None,
        metric=None,
        budget=Budget(trial_count=TRIALS),
        max_parallel_trials=0,
        seed=11,
        ignored_columns=(),
        weight_column="",
        group_column="",
        time_column="",
        families=(),
    )
    return make_plan(wish, table, target, GRAMMAR, clock.now())


async def test_a_controller_that_is_killed_all_the_time_chooses_the_same() -> None:
    calm, rough = Search(breaks=False), Search(breaks=True)
    chosen = await calm.play()
    assert calm.came_back_and_ended, "trials that were put off end between two questions"
    assert len(rough.sampling.questions) == 0
    assert await rough.play() == chosen
    assert len(rough.sampling.questions) > len(calm.sampling.questions)


async def test_the_question_shows_what_had_ended_when_the_newest_trial_was_begun() -> None:
    search = Search(breaks=False)
    await search.play()
    for trial in search.ledger.trials.values():
        if trial.basis is None:
            continue
        before = search.ledger.trials[trial.number - 1]
        assert trial.basis.revision == before.create_revision
        assert before.create_revision <= before.revision


@pytest.mark.parametrize("number", [2, 9])
async def test_a_trial_keeps_the_revision_that_it_was_begun_at(number: int) -> None:
    search = Search(breaks=False)
    await search.play()
    trial = search.ledger.trials[number]
    edit = Edit(search.ledger, search.clock.now())
    edit.put_trial(replace(trial, log_tail="more"))
    change = edit.close()
    assert change is not None
    assert change.trials[0].create_revision == trial.create_revision < change.trials[0].revision
