"""What TPE chooses in a real controller, and that its journal shows the same choices again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2
from allotment_controller.adapters.sampling import ThreadedSampling
from allotment_controller.adapters.store import SqlStore
from allotment_controller.domain.ledger import Ledger
from allotment_controller.domain.prepared import Question
from allotment_controller.domain.trial import TrialState
from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_core.names import ExperimentName
from allotment_search import (
    Derivation,
    Grammar,
    History,
    MixedSampler,
    TaskShape,
    next_default,
    next_random,
)
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

GRAMMAR = Grammar.load("tabular")
FAMILIES = ["families/lightgbm", "families/linear"]


async def searched(folder: Path, slots: int, trials: int, score: Any) -> Ledger:
    """The stored experiment after its end."""
    folder.mkdir()  # noqa: ASYNC240 (nothing else runs yet)
    world = SearchWorld(folder, slot_count=slots)
    world.manners.score = score
    async with world.open(), world.controller() as stub:
        experiment = await create(
            stub, spec(trial_count=trials, max_parallel_trials=slots, families=FAMILIES)
        )
        last = await ended(stub, experiment.name, within_s=50.0)
        assert last.state == search_pb2.EXPERIMENT_STATE_SUCCEEDED
        assert len(await all_trials(stub, experiment.name)) == trials
    database = await Database.open(
        f"sqlite:///{folder}/controller.db",
        migrations="allotment_controller.adapters.migrations",
        clock=SystemClock(),
    )
    try:
        return await SqlStore(database).load(ExperimentName.parse(experiment.name))
    finally:
        await database.close()


def smooth(assignment: session_pb2.Assignment) -> float:
    """Fewer leaves are better; other families than LightGBM are bad."""
    leaves = [c.integer for c in assignment.derivation if c.symbol == "lightgbm.num_leaves"]
    return 0.01 * leaves[0] if leaves else 2.0


def chosen_again(ledger: Ledger, number: int) -> Derivation:
    """The derivation of a trial, decided once more from what was known then."""
    plan, trial = ledger.experiment.plan, ledger.trials[number]
    families = {*plan.spec.families, "constant"}
    before = [ledger.trials[n].derivation for n in range(1, number)]
    basis = trial.basis
    if basis is None:
        known = History(before)
        proposal = next_default(GRAMMAR, plan.shape, families, known) or next_random(
            GRAMMAR, plan.shape, families, known, plan.spec.seed
        )
        assert proposal is not None
        return proposal.derivation
    seen = History(before[: basis.trial_count])
    for other in sorted(ledger.trials.values(), key=lambda t: t.revision):
        if other.is_open or other.revision > basis.revision:
            continue
        done = other.state is TrialState.SUCCEEDED and other.result is not None
        loss = plan.spec.metric.loss(other.result.score) if done and other.result else None
        seen.end(other.number, loss)
    sampler = MixedSampler(GRAMMAR, plan.shape, basis.families)
    batch = sampler.proposals(seen.view(), basis.place + 1, plan.spec.seed)
    return batch[basis.place].derivation


@pytest.mark.parametrize("slots", [1, 3])
async def test_the_journal_shows_every_decision_again(tmp_path: Path, slots: int) -> None:
    ledger = await searched(tmp_path / "a", slots, 40, smooth)
    origins = [ledger.trials[n].origin for n in sorted(ledger.trials)]
    assert {"CONSTANT", "DEFAULT", "TPE"} <= set(origins)
    assert origins.count("TPE") >= 4
    for number, trial in ledger.trials.items():
        assert chosen_again(ledger, number) == trial.derivation, (number, trial.origin)


async def test_one_slot_and_a_budget_in_trials_choose_the_same_at_any_pace(tmp_path: Path) -> None:
    first = await searched(tmp_path / "a", 1, 30, smooth)
    slower = await searched(tmp_path / "b", 1, 30, lambda a: smooth(a) + 0 * sum(range(200_000)))
    assert [first.trials[n].derivation for n in range(1, 31)] == [
        slower.trials[n].derivation for n in range(1, 31)
    ]


async def test_a_name_that_is_used_again_for_other_data_has_another_sampler() -> None:
    shape = TaskShape(task="binary", row_count=300, numeric_count=3)
    rng = np.random.default_rng(0)
    seen = History(dict.fromkeys(GRAMMAR.derive(rng, "linear", shape) for _ in range(12)))
    for number in range(1, len(seen) + 1):
        seen.end(number, 1.0 / number)
    question = Question(
        grammar=GRAMMAR,
        shape=shape,
        families=frozenset({"linear"}),
        history=seen.view(),
        count=8,
        seed=1,
        timings=(),
        left_s=None,
    )
    other = replace(question, shape=replace(shape, category_count=5, date_count=2))
    used, fresh = ThreadedSampling(), ThreadedSampling()
    await used.proposals("tenants/t/experiments/e", question)
    again = await used.proposals("tenants/t/experiments/e", other)
    assert again == await fresh.proposals("tenants/t/experiments/e", other)
    for sampling in (used, fresh):
        sampling.close()
