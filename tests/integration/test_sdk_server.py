"""Every call of the client, and the commands over them, against a whole local system."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow
import pytest

import allotment
from allotment import errors
from allotment.types import ColumnRole, ExportState, LeaseState, ModelState, Role, TrialState
from allotment_testkit.local_system import ALLOTMENT
from allotment_testkit.services_system import System, any_system

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with any_system(tmp_path_factory.mktemp("system") / "state") as running:
        yield running


@pytest.fixture
def client(system: System) -> Iterator[allotment.Client]:
    with system.client() as connected:
        yield connected


def rows(count: int = 300) -> dict[str, list[object]]:
    rng = random.Random(2)
    x = [rng.gauss(0, 1) for _ in range(count)]
    city = [rng.choice(["Rome", "Oslo", "Lima"]) for _ in range(count)]
    y = ["yes" if a + (c == "Rome") > 0.4 else "no" for a, c in zip(x, city, strict=True)]
    return {"x": list(x), "city": list(city), "y": list(y)}


@pytest.fixture(scope="module")
def searched(system: System, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an experiment that has ended."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    polars.DataFrame(rows()).write_csv(path)
    with system.client() as client:
        version = client.upload(path, dataset_id="cities", target_hint="y")
        experiment = client.experiments.create(
            version, target="y", trials=4, seed=1, experiment_id="search"
        )
        assert client.wait(experiment).state is allotment.ExperimentState.SUCCEEDED
    return experiment.name


def command(system: System, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ALLOTMENT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **system.environment},
    )


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_data_frames_are_uploaded(client: allotment.Client, kind: str) -> None:
    frame: Any = {
        "pandas": pandas.DataFrame,
        "polars": polars.DataFrame,
        "pyarrow": pyarrow.table,
    }[kind](rows(50))
    stages: list[str] = []
    version = client.upload(frame, progress=lambda progress: stages.append(progress.stage))
    assert version.row_count == 50
    assert [column.name for column in version.columns] == ["x", "city", "y"]
    assert [str(column.type) for column in version.columns] == [
        "numeric",
        "categorical",
        "categorical",
    ]
    assert "upload" in stages


def test_nothing_of_an_upload_is_left_after_its_import(
    client: allotment.Client, system: System, tmp_path: Path
) -> None:
    def left() -> list[Path]:
        return [path for path in system.folder.glob("**/uploads/*/*") if path.is_file()]

    before = left()
    path = tmp_path / "rows.csv"
    path.write_bytes(b"x,y\n1,a\n2,b\n")
    client.upload(path)
    assert left() == before
    path.write_bytes(b"\x00not a table")
    with pytest.raises(errors.InvalidArgument):
        client.upload(path)
    assert left() == before


def test_something_else_is_no_data(client: allotment.Client) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        client.upload(3)  # type: ignore[arg-type]
    assert caught.value.reason == "BAD_SOURCE"


def test_versions_grow_by_appending_and_end_by_deleting(
    client: allotment.Client, tmp_path: Path
) -> None:
    polars.DataFrame(rows(60)).write_csv(tmp_path / "a.csv")
    first = client.datasets.upload(
        tmp_path / "a.csv", dataset_id="grows", roles={"city": ColumnRole.IGNORED}
    )
    assert [column.role for column in first.columns][1] is ColumnRole.IGNORED
    second = client.datasets.upload(tmp_path / "a.csv", append_to="grows")
    assert (second.row_count, second.dataset) == (120, first.dataset)
    assert [version.name for version in client.datasets.versions("grows")].count(second.name) == 1
    assert client.datasets.get("grows").latest_version == second.name
    assert client.datasets.version("grows/1").name == first.name
    report = client.datasets.inspect_target("grows", "y")
    assert report.task is allotment.TaskType.BINARY
    assert [label for label, _ in report.classes] == ["no", "yes"]
    paths = client.datasets.download("grows", tmp_path / "parts")
    assert sum(polars.read_parquet(path).height for path in paths) == 120
    with pytest.raises(errors.AlreadyExists):
        client.datasets.upload(tmp_path / "a.csv", dataset_id="grows")
    client.datasets.delete_version("grows/1")
    client.datasets.delete("grows")
    with pytest.raises(errors.NotFound):
        client.datasets.get("grows")


def test_a_searches_trials_and_models_are_listed(
    client: allotment.Client, searched: str, tmp_path: Path
) -> None:
    assert searched in [experiment.name for experiment in client.experiments.list()]
    trials = list(client.experiments.trials(searched))
    assert len(trials) >= 4
    assert all(trial.attempts == 1 for trial in trials if trial.state is TrialState.SUCCEEDED)
    assert client.experiments.trial(f"search/{trials[0].id}").name == trials[0].name
    best = client.best_model(searched)
    assert best.state is ModelState.READY
    assert client.models.get("search/best").name == best.name
    assert best.name in [model.name for model in client.models.list(searched)]
    assert best.name in [model.name for model in client.models.watch(searched)]
    artefact, manifest = client.download_model(best, tmp_path)
    assert artefact.stat().st_size == best.artefact_size_bytes
    assert json.loads(manifest.read_text(encoding="utf-8"))


def test_an_export_can_be_made_again_and_forgotten(
    client: allotment.Client, searched: str, tmp_path: Path
) -> None:
    made = client.exports.create("search/best")
    ended = list(client.exports.watch(made))[-1]
    assert ended.state is ExportState.SUCCEEDED
    assert ended.parity is not None
    assert ended.parity.offending_row_count == 0
    client.exports.download(ended, tmp_path)
    assert made.name in [export.name for export in client.exports.list()]
    client.exports.delete(made)
    with pytest.raises(errors.NotFound):
        client.exports.get(made)


def test_a_search_is_paused_resumed_cancelled_and_deleted(
    client: allotment.Client, searched: str
) -> None:
    experiment = client.create_experiment("cities", target="y", budget_s=120)
    assert client.experiments.pause(experiment).state is allotment.ExperimentState.PAUSED
    assert client.experiments.resume(experiment).state is allotment.ExperimentState.RUNNING
    client.experiments.cancel(experiment)
    assert client.wait(experiment).state is allotment.ExperimentState.CANCELLED
    client.experiments.delete(experiment)
    with pytest.raises(errors.NotFound):
        client.experiments.get(experiment)


def test_wrong_requests_are_errors_with_reasons(client: allotment.Client, searched: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="at least 10 s"):
        client.create_experiment("cities", target="y", budget_s=5)
    with pytest.raises(errors.InvalidArgument, match="zzz"):
        client.create_experiment("cities", target="zzz", budget_s=10)
    with pytest.raises(errors.InvalidArgument, match="log_loss"):
        client.create_experiment("cities", target="y", budget_s=10, metric="zzz")
    with pytest.raises(errors.NotFound):
        client.create_experiment("nothing", target="y", budget_s=10)
    with pytest.raises(errors.NotFound):
        client.download_model("search/999", "nowhere")


def test_tenants_tokens_and_what_they_may_see(
    client: allotment.Client, system: System, searched: str
) -> None:
    tenant = client.tenants.create("acme", weight=2, quota_slots=1)
    changed = client.tenants.update(tenant, weight=3, etag=tenant.etag)
    assert (changed.weight, changed.quota_slots) == (3, 1)
    with pytest.raises(errors.Aborted):
        client.tenants.update(tenant, weight=4, etag=tenant.etag)
    assert not changed.shares_experience
    sharing = client.tenants.update("acme", shares_experience=True)
    assert (sharing.shares_experience, sharing.weight) == (True, 3)
    assert not client.tenants.update("acme", shares_experience=False).shares_experience
    assert {"tenants/acme", "tenants/local"} <= {t.name for t in client.tenants.list()}
    token = client.tenants.issue_token("acme", role=Role.VIEWER, ttl_s=600).token
    with system.client(token=token) as viewer:
        assert viewer.settings.tenant == "tenants/acme"
        assert list(viewer.experiments.list()) == []
        assert viewer.tenants.get().weight == 3
        with pytest.raises(errors.NotFound):
            viewer.experiments.get(searched)
        with pytest.raises(errors.PermissionDenied):
            viewer.create_experiment("cities", target="y", budget_s=10)
    client.tenants.delete("acme")


def test_pools_leases_families_and_usage(client: allotment.Client, searched: str) -> None:
    pool = next(client.pools.list())
    assert client.pools.get(pool) == pool
    assert pool.slot_count >= 1
    leases = list(client.leases.list(include_ended=True, all_tenants=True))
    ended = next(lease for lease in leases if lease.holder == searched)
    assert client.leases.get(ended).name == ended.name
    assert ended.state in (LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.HELD)
    total, experiments = client.tenants.usage()
    assert total.slot_seconds > 0
    assert searched in [usage.name for usage in experiments]
    assert {"families/linear", "families/constant"} <= {
        family.name for family in client.experiments.families()
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("data",),
        ("data", "show", "cities"),
        ("data", "versions", "cities"),
        ("experiments",),
        ("experiments", "show", "search"),
        ("trials", "search"),
        ("trials", "search/1"),
        ("models", "list", "search"),
        ("models", "show", "search/best"),
        ("export",),
        ("families",),
        ("pools",),
        ("tenants",),
        ("tenants", "show"),
        ("leases", "--ended"),
        ("usage",),
        ("token", "create"),
    ],
)
def test_every_command_prints_for_people_and_for_programs(
    system: System, searched: str, arguments: tuple[str, ...]
) -> None:
    people = command(system, *arguments)
    assert (people.returncode, people.stderr) == (0, "")
    assert people.stdout
    programs = command(system, *arguments, "--json")
    assert (programs.returncode, programs.stderr) == (0, "")
    assert json.loads(programs.stdout)


def test_trials_and_experiments_as_json_have_what_scripts_rely_on(
    system: System, searched: str
) -> None:
    trials = json.loads(command(system, "trials", "search", "--json").stdout)
    assert all({"name", "state", "attempts"} <= trial.keys() for trial in trials)
    experiments = json.loads(command(system, "experiments", "--json").stdout)
    assert all({"name", "state"} <= experiment.keys() for experiment in experiments)


def test_a_watch_is_a_line_of_json_for_each_change(system: System, searched: str) -> None:
    done = command(system, "experiments", "watch", "search", "--json")
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert {"experiment", "trial", "model"} == set(kinds)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("trials", "nothing"), "nothing"),
        (("experiments", "create", "cities", "--target", "zzz"), "zzz"),
        (("data", "upload", "nowhere.csv"), "nowhere.csv"),
        (("data", "show", "a b"), "a b"),
        (("tenants", "update", "local"), "nothing to change"),
        (("token", "create", "--role", "king"), "king"),
    ],
)
def test_errors_are_one_line(
    system: System, searched: str, arguments: tuple[str, ...], text: str
) -> None:
    done = command(system, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("error: ")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
