"""A real controller learns the order of its portfolio from tasks of tenants that consent."""

import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest

from allotment_api.search.v1 import search_pb2 as pb
from allotment_api.search.v1 import search_pb2_grpc
from allotment_testkit.search_world import SearchWorld, all_trials, ended, spec

OURS, THEIRS = "tenants/ours", "tenants/theirs"
TRIALS = 24


def rows(world: SearchWorld) -> list[tuple[str, str, str]]:
    connection = sqlite3.connect(f"{world.folder}/controller.db")
    try:
        query = "SELECT tenant, traits, results FROM experience ORDER BY experiment"
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def stub_of(world: SearchWorld, tenant: str) -> Any:
    assert world.served is not None
    token = world.served.token(tenant=tenant)
    return search_pb2_grpc.SearchServiceStub(world.served.channel(token))


async def begin(stub: Any, tenant: str, experiment_id: str) -> str:
    wanted = spec(trial_count=TRIALS, without_early_stopping=True)
    wanted.dataset_version = f"{tenant}/datasets/d/versions/latest"
    request = pb.CreateExperimentRequest(
        request_id=uuid.uuid4().hex, parent=tenant, experiment_id=experiment_id, spec=wanted
    )
    return str((await stub.CreateExperiment(request)).experiment.name)


async def search(world: SearchWorld, tenant: str, experiment_id: str) -> list[bytes]:
    """The derivations of a whole search, in order."""
    stub = stub_of(world, tenant)
    name = await begin(stub, tenant, experiment_id)
    end = await ended(stub, name)
    assert end.state == pb.EXPERIMENT_STATE_SUCCEEDED
    return await derivations(stub, name)


async def derivations(stub: Any, name: str) -> list[bytes]:
    trials = await all_trials(stub, name)
    return [b"".join(c.SerializeToString() for c in t.derivation) for t in trials]


async def test_without_consent_nothing_is_kept_and_nothing_changes(tmp_path: Path) -> None:
    async with SearchWorld(tmp_path).open() as world, world.controller():
        first = await search(world, OURS, "a")
        assert await search(world, OURS, "b") == first
        assert rows(world) == []


async def test_tenants_that_consent_learn_from_each_other(tmp_path: Path) -> None:
    async with SearchWorld(tmp_path).open() as world, world.controller():
        world.tenants.sharing = {OURS, THEIRS}
        shipped = await search(world, OURS, "a")
        [(tenant, traits, results)] = rows(world)
        assert tenant == OURS
        for name in (*world.datasets.columns[:3], *world.datasets.classes, "datasets"):
            assert f'"{name}' not in traits + results
        learnt = await search(world, THEIRS, "a")
        assert learnt != shipped, "the order is another one"
        both = set(learnt) & set(shipped)
        assert len(both) > 15, "of the same portfolio"
        world.tenants.sharing = {OURS}
        assert await search(world, THEIRS, "b") == shipped, (
            "who does not share gets the shipped one"
        )
        assert {row[0] for row in rows(world)} == {OURS}, "and is forgotten"


async def test_a_consent_that_was_withdrawn_is_not_used_any_more(tmp_path: Path) -> None:
    async with SearchWorld(tmp_path).open() as world, world.controller():
        world.tenants.sharing = {OURS, THEIRS}
        shipped = await search(world, OURS, "a")
        world.tenants.sharing = {THEIRS}
        assert await search(world, THEIRS, "a") == shipped
        assert {row[0] for row in rows(world)} == {THEIRS}


async def test_a_killed_controller_keeps_the_order_that_the_experiment_began_with(
    tmp_path: Path,
) -> None:
    async with SearchWorld(tmp_path).open() as world:
        world.tenants.sharing = {OURS}
        async with world.controller():
            shipped = await search(world, OURS, "a")
            learnt = await search(world, OURS, "b")
            assert learnt != shipped
            # What is known when the third begins is what was known when the second did.
            await delete(stub_of(world, OURS), f"{OURS}/experiments/b")
            world.manners.train_s = 0.02
            name = await begin(stub_of(world, OURS), OURS, "c")
        world.tenants.sharing = set()
        world.manners.train_s = 0.0
        async with world.controller():
            stub = stub_of(world, OURS)
            await ended(stub, name)
            assert await derivations(stub, name) == learnt
            assert rows(world) == []


async def delete(stub: Any, name: str) -> None:
    await stub.DeleteExperiment(pb.DeleteExperimentRequest(request_id="d", name=name))


@pytest.mark.parametrize("trouble", ["gone", "hangs"])
async def test_an_allocator_that_does_not_say_is_no_consent(tmp_path: Path, trouble: str) -> None:
    async with SearchWorld(tmp_path).open() as world, world.controller():
        world.tenants.sharing = {OURS}
        if trouble == "gone":
            world.tenants.gone = {OURS}
        else:
            world.tenants.hangs = True
        await search(world, OURS, "a")
        assert rows(world) == []
