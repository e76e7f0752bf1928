"""What every store of the controller promises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from allotment_controller.adapters import experiences as experience_rows
from allotment_controller.adapters.experiences import SqlExperiences
from allotment_controller.adapters.store import SqlStore
from allotment_controller.build import MIGRATIONS
from allotment_controller.domain.experiment import (
    Budget,
    Experiment,
    ExperimentSpec,
    ExperimentState,
    Plan,
)
from allotment_controller.domain.ledger import Change, Edit, Ledger
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
from allotment_core.names import ExperimentName, TenantName, VersionName
from allotment_search import Experience, Grammar, TaskShape, Traits
from allotment_testkit.clock import ManualClock

NAME = ExperimentName.parse("tenants/t/experiments/e")
CLOCK = ManualClock()
NOW = CLOCK.now()
SHAPE = TaskShape(task="multiclass", row_count=10, numeric_count=2, class_count=3)
TRAITS = Traits.of(SHAPE, level_count=0, missing_share=0.3, rarest_share=0.1)


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
        shape=SHAPE,
        split=Split(method=SplitMethod.FOLDS, part_count=5, seed=3, group_column="g"),
        warnings=(Notice("W", "careful", "p"),),
        table=b"\x00\xff",
        create_time=NOW,
        deadline=NOW + timedelta(seconds=58.75),
        traits=TRAITS,
        portfolio_order=("linear.0123abcd", "lightgbm.89abcdef"),
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


def left(loss: float, *, is_regression: bool = False) -> Experience:
    traits = replace(TRAITS, is_regression=is_regression)
    return Experience(traits=traits, results={"linear.0123abcd": loss, "lightgbm.89abcdef": None})


async def end(store: SqlStore, name: str, after_s: float, **leaves: Any) -> None:
    """Ends an experiment of this name, that is there or not yet."""
    parsed = ExperimentName.parse(name)
    try:
        ledger = await store.load(parsed)
    except NotFound:
        ledger = Ledger(experiment(parsed))
        await store.create(ledger.experiment, lambda: None)
    state = ExperimentState.SUCCEEDED
    ended = replace(
        ledger.experiment,
        state=state,
        end_time=NOW + timedelta(seconds=after_s),
        revision=ledger.experiment.revision + 1,
    )
    base = ledger.experiment.revision
    await store.commit(Change(ended, (), (), base, **leaves))


class TestExperience:
    @pytest.fixture
    def experiences(self, database: Database) -> SqlExperiences:
        return SqlExperiences(database)

    async def test_what_an_experiment_left_is_there_with_its_end(
        self, store: SqlStore, experiences: SqlExperiences
    ) -> None:
        await end(store, "tenants/a/experiments/x", 1, experience=left(0.1))
        await end(store, "tenants/b/experiments/x", 2, experience=left(0.2))
        await end(store, "tenants/a/experiments/y", 3, experience=left(0.3, is_regression=True))
        await end(store, "tenants/a/experiments/z", 4)
        assert await experiences.past(is_regression=False) == [
            (TenantName("b"), left(0.2)),
            (TenantName("a"), left(0.1)),
        ]
        assert await experiences.past(is_regression=True) == [
            (TenantName("a"), left(0.3, is_regression=True))
        ]

    async def test_a_change_that_is_void_leaves_nothing(
        self, store: SqlStore, experiences: SqlExperiences
    ) -> None:
        await end(store, "tenants/a/experiments/x", 1)
        stale = replace(experiment(ExperimentName.parse("tenants/a/experiments/x")), revision=9)
        with pytest.raises(Aborted):
            await store.commit(Change(stale, (), (), 7, experience=left(0.1)))
        assert not await experiences.past(is_regression=False)

    async def test_an_experiment_that_ends_again_replaces_what_it_left(
        self, store: SqlStore, experiences: SqlExperiences
    ) -> None:
        for loss in (0.1, 0.4):
            await end(store, "tenants/a/experiments/x", loss, experience=left(loss))
        assert await experiences.past(is_regression=False) == [(TenantName("a"), left(0.4))]

    async def test_a_deleted_experiment_takes_it_along(
        self, store: SqlStore, experiences: SqlExperiences
    ) -> None:
        await end(store, "tenants/a/experiments/x", 1, experience=left(0.1))
        await store.delete(ExperimentName.parse("tenants/a/experiments/x"), "", lambda: None)
        assert not await experiences.past(is_regression=False)

    async def test_a_tenant_is_forgotten_alone(
        self, store: SqlStore, experiences: SqlExperiences
    ) -> None:
        for name in (
            "tenants/a/experiments/x",
            "tenants/a/experiments/y",
            "tenants/b/experiments/x",
        ):
            await end(store, name, 1, experience=left(0.1))
        await experiences.forget(TenantName("a"))
        assert await experiences.past(is_regression=False) == [(TenantName("b"), left(0.1))]
        await end(store, "tenants/b/experiments/y", 2, forgets_experience=True)
        assert not await experiences.past(is_regression=False)

    async def test_the_newest_are_kept_of_each_tenant_and_of_all(
        self, store: SqlStore, experiences: SqlExperiences, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(experience_rows, "KEPT", 5)
        monkeypatch.setattr(experience_rows, "KEPT_OF_TENANT", 3)
        for number in range(1, 6):
            await end(
                store, f"tenants/a/experiments/x{number}", number, experience=left(number / 10)
            )
        kept = await experiences.past(is_regression=False)
        assert [e.results["linear.0123abcd"] for _, e in kept] == [0.5, 0.4, 0.3]
        for number in range(6, 9):
            await end(
                store, f"tenants/b/experiments/x{number}", number, experience=left(number / 10)
            )
        kept = await experiences.past(is_regression=False)
        assert [e.results["linear.0123abcd"] for _, e in kept] == [0.8, 0.7, 0.6, 0.5, 0.4]
