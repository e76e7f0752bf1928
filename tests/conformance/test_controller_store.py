"""What every store of the controller promises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from allotment_controller.adapters.store import SqlStore
from allotment_controller.build import MIGRATIONS
from allotment_controller.domain.experiment import Budget, Experiment, ExperimentSpec, Plan
from allotment_controller.domain.ledger import Edit, Ledger
from allotment_controller.domain.messages import OfferedFamily
from allotment_controller.domain.model import Artefact, Model
from allotment_controller.domain.task import (
    Metric,
    Notice,
    Problem,
    Split,
    SplitMethod,
    TaskType,
    Wait,
)
from allotment_controller.domain.trial import AttemptCause, Trial, TrialResult
from allotment_core.db import Database
from allotment_core.errors import Aborted, AlreadyExists, NotFound
from allotment_core.names import ExperimentName, VersionName
from allotment_search import Grammar, TaskShape
from allotment_testkit.clock import ManualClock

NAME = ExperimentName.parse("tenants/t/experiments/e")
CLOCK = ManualClock()
NOW = CLOCK.now()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, migrations=MIGRATIONS, clock=CLOCK)
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> SqlStore:
    return SqlStore(database)


def experiment(name: ExperimentName = NAME) -> Experiment:
    spec = ExperimentSpec(
        dataset_version=VersionName.parse("tenants/t/datasets/d/versions/1"),
        target="größe",
        task=TaskType.MULTICLASS,
        metric=Metric.AUC,
        budget=Budget(wall_time_s=60.0, started_before_s=1.25, trial_count=9),
        seed=2**64 - 1,
        ignored_columns=("x", "y"),
        families=("linear",),
    )
    plan = Plan(
        spec=spec,
        classes=("a", "b", "none"),
        feature_columns=("p", "q"),
        shape=TaskShape(task="multiclass", row_count=10, numeric_count=2, class_count=3),
        split=Split(method=SplitMethod.FOLDS, part_count=5, seed=3, group_column="g"),
        warnings=(Notice("W", "careful", "p"),),
        table=b"\x00\xff",
        create_time=NOW,
        deadline=NOW + timedelta(seconds=58.75),
    )
    return Experiment(name=name, plan=plan, revision=1)


async def filled(store: SqlStore) -> Ledger:
    ledger = Ledger(experiment())
    await store.create(ledger.experiment, lambda: None)
    grammar = Grammar.load("tabular")
    edit = Edit(ledger, NOW)
    first = Trial(
        experiment=NAME,
        number=1,
        derivation=grammar.default("lightgbm"),
        origin="DEFAULT",
        create_time=NOW,
        cost_s=0.125,
    )
    lost = first.assigned("tenants/t/leases/l", 1).ended_attempt(
        AttemptCause.OUT_OF_MEMORY, Problem("OOM", "too much"), "tail", NOW
    )
    result = TrialResult(
        score=0.75, metrics={"auc": 0.75, "log_loss": float("inf")}, fit_s=1.5, fold_count=5
    )
    edit.put_trial(
        lost.assigned("tenants/t/leases/l", 2).succeeded(4, result, {"lightgbm": "4.7"}, NOW)
    )
    edit.put_trial(replace(first, number=2, derivation=grammar.default("linear")))
    model = Model(experiment=NAME, number=1, trial=1, score=0.75, create_time=NOW, export="x")
    artefact = Artefact(artefact_sha256="a", manifest_sha256="b", size_bytes=7)
    edit.put_model(model.ready(artefact, NOW))
    edit.experiment = replace(
        edit.experiment, best_model=1, best_score=0.75, wait=Wait("QUOTA", "wait", 2)
    )
    change = edit.close()
    assert change is not None
    await store.commit(change)
    ledger.absorb(change)
    return ledger


async def test_what_was_committed_is_loaded(store: SqlStore) -> None:
    ledger = await filled(store)
    loaded = await store.load(NAME)
    assert loaded.experiment == ledger.experiment
    assert loaded.trials == ledger.trials
    assert loaded.models == ledger.models
    assert loaded.open == {2}
    assert [open_ledger.experiment.name for open_ledger in await store.load_open()] == [NAME]


async def test_a_change_of_an_older_revision_is_void(store: SqlStore) -> None:
    ledger = await filled(store)
    one, two = Edit(ledger, NOW), Edit(ledger, NOW)
    one.put_trial(ledger.trials[2].cancelled(NOW))
    two.put_trial(ledger.trials[2].assigned("tenants/t/leases/l", 9))
    changes = [edit.close() for edit in (one, two)]
    assert changes[0] is not None
    assert changes[1] is not None
    await store.commit(changes[0])
    with pytest.raises(Aborted) as caught:
        await store.commit(changes[1])
    assert caught.value.reason == "STALE_REVISION"
    assert (await store.load(NAME)).trials[2].lease == ""


async def test_of_two_controllers_at_one_revision_one_writes(
    store: SqlStore, database_url: str
) -> None:
    """Epochs and revisions are compared in the transaction that writes."""
    ledger = await filled(store)
    other = await Database.open(database_url, migrations=MIGRATIONS, clock=CLOCK)
    changes = []
    for lease in range(6):
        edit = Edit(ledger, NOW)
        edit.put_trial(ledger.trials[2].assigned(f"tenants/t/leases/l{lease}", 1))
        change = edit.close()
        assert change is not None
        changes.append(change)
    stores = (store, SqlStore(other))
    results = await asyncio.gather(
        *(stores[i % 2].commit(change) for i, change in enumerate(changes)), return_exceptions=True
    )
    await other.close()
    lost = [each for each in results if isinstance(each, Aborted)]
    assert len(lost) == 5
    assert {each.reason for each in lost} == {"STALE_REVISION"}
    winner = (await store.load(NAME)).trials[2]
    assert winner.lease == f"tenants/t/leases/l{results.index(None)}"


async def test_of_two_experiments_with_one_name_one_is_created(
    store: SqlStore, database_url: str
) -> None:
    other = await Database.open(database_url, migrations=MIGRATIONS, clock=CLOCK)
    stores = (store, SqlStore(other))
    results = await asyncio.gather(
        *(stores[i % 2].create(experiment(), lambda: None) for i in range(4)),
        return_exceptions=True,
    )
    await other.close()
    assert sum(isinstance(each, AlreadyExists) for each in results) == 3


async def test_a_number_that_no_trial_can_have_is_not_found(store: SqlStore) -> None:
    await filled(store)
    for number in (3, 2**31 - 1):
        assert await store.trial(NAME, number) is None


async def test_a_name_is_given_once_until_it_is_deleted(store: SqlStore) -> None:
    await filled(store)
    with pytest.raises(AlreadyExists):
        await store.create(experiment(), lambda: None)
    _, gone = await store.delete(NAME, "", lambda: None)
    assert gone is not None
    assert len(gone.trials) == 2
    with pytest.raises(NotFound):
        await store.load(NAME)
    await store.create(experiment(), lambda: None)
    assert not (await store.load(NAME)).trials


async def test_changes_are_read_by_revision(store: SqlStore) -> None:
    ledger = await filled(store)
    everything = await store.changed(NAME, 0)
    assert len(everything.parts) == 3
    nothing = await store.changed(NAME, ledger.experiment.revision)
    assert not nothing.parts
    later = await store.changed(NAME, ledger.trials[1].revision)
    assert len(later.parts) == 2


async def test_the_last_offer_of_families_is_kept(store: SqlStore, database: Database) -> None:
    missing = OfferedFamily("lightgbm", Problem("NO_LIBRARY", "libgomp1 is missing"))
    await store.offer([OfferedFamily("linear"), missing])
    assert await SqlStore(database).offered() == [missing, OfferedFamily("linear")]
    await store.offer([OfferedFamily("lightgbm")])
    assert await store.offered() == [OfferedFamily("lightgbm"), OfferedFamily("linear")]
