"""`allotment up`: what survives kill -9, what is refused, and that nothing is left."""

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import allotment
from allotment.types import Trial, TrialState
from allotment_testkit.local_system import (
    ALLOTMENT,
    LocalSystem,
    free_port,
    local_system,
    processes_of_group,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
]


def write_rows(path: Path, count: int = 2_000) -> Path:
    rng = random.Random(5)
    rows = [[rng.gauss(0, 1) for _ in range(8)] for _ in range(count)]
    lines = [",".join([f"x{i}" for i in range(8)] + ["y"])]
    for row in rows:
        label = "pos" if row[0] + row[1] * row[2] + rng.gauss(0, 0.5) > 0 else "neg"
        lines.append(",".join([*(f"{value:.4f}" for value in row), label]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def client_of(system: LocalSystem) -> allotment.Client:
    return allotment.Client(system.address, token=system.token)


def wait_for(true: Callable[[], bool], seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def finished(client: allotment.Client, experiment: str) -> dict[str, Trial]:
    return {
        trial.name: trial
        for trial in client.experiments.trials(experiment)
        if trial.state is TrialState.SUCCEEDED
    }


def none_left(group: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while processes_of_group(group):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_an_experiment_goes_on_after_the_whole_system_was_killed(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with local_system(tmp_path / "state") as system:
        token = system.token
        with client_of(system) as client:
            version = client.upload(rows, target_hint="y")
            # A killed trainer is missed after 15 s; a busy machine takes its time for the rest.
            experiment = client.create_experiment(version, target="y", budget_s=45).name
            wait_for(lambda: len(finished(client, experiment)) >= 3)
            before = finished(client, experiment)
        group = system.process_ids[0]
        os.killpg(group, signal.SIGKILL)
        system.kill()
        time.sleep(1)
        system.start()
        assert system.token == token
        with client_of(system) as client:
            after = finished(client, experiment)
            assert before.keys() <= after.keys()
            for name, trial in before.items():
                assert (trial.score, trial.fit_s) == (after[name].score, after[name].fit_s)
            wait_for(lambda: len(finished(client, experiment)) > len(before))
            ended = client.wait(experiment)
            assert ended.state is allotment.ExperimentState.SUCCEEDED
            trials = list(client.experiments.trials(experiment))
            assert len({trial.name for trial in trials}) == len(trials)
            assert ended.finished_trial_count == sum(t.end_time is not None for t in trials)
            client.download_model(client.best_model(experiment), tmp_path / "model")
        assert (tmp_path / "model" / "model.onnx").stat().st_size > 0


def test_nothing_is_left_five_seconds_after_the_server_was_killed(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with local_system(tmp_path / "state") as system:
        with client_of(system) as client:
            version = client.upload(rows, target_hint="y")
            experiment = client.create_experiment(version, target="y", budget_s=60).name
            wait_for(lambda: len(finished(client, experiment)) >= 1)
        group, *others = system.process_ids
        assert others, "no trainer is running"
        system.kill()
        assert none_left(group, 5.0), processes_of_group(group)


def test_a_trial_whose_trainer_is_killed_is_tried_again(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with local_system(tmp_path / "state") as system, client_of(system) as client:
        version = client.upload(rows, target_hint="y")
        experiment = client.create_experiment(version, target="y", budget_s=20).name
        wait_for(lambda: len(finished(client, experiment)) >= 2)
        for pid in system.process_ids[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        before = len(finished(client, experiment))
        wait_for(lambda: len(finished(client, experiment)) > before)
        ended = client.wait(experiment)
        assert ended.state is allotment.ExperimentState.SUCCEEDED
        trials = list(client.experiments.trials(experiment))
        assert any(trial.attempts > 1 for trial in trials), [t.attempts for t in trials]
        assert len({trial.name for trial in trials}) == len(trials)


def test_sigterm_ends_it_well_and_leaves_nothing(tmp_path: Path) -> None:
    with local_system(tmp_path / "state") as system:
        group = system.process_ids[0]
        assert system.stop() == 0
        assert none_left(group, 1.0), processes_of_group(group)


def test_token_and_key_are_private_and_survive_a_restart(tmp_path: Path) -> None:
    with local_system(tmp_path / "state") as system:
        token, key = system.token, (system.folder / "key.pem").read_bytes()
        for name in ("token", "key.pem"):
            assert stat.S_IMODE((system.folder / name).stat().st_mode) == 0o600
        system.stop()
        system.start()
        assert (system.token, (system.folder / "key.pem").read_bytes()) == (token, key)


def up(folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    command = [ALLOTMENT, "up", "--dir", str(folder), "--port", str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


@pytest.fixture(scope="module")
def served_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    with local_system(tmp_path_factory.mktemp("system") / "state") as system:
        yield system


def test_a_second_server_on_the_folder_or_the_port_is_refused(
    served_here: LocalSystem, tmp_path: Path
) -> None:
    same_folder = up(served_here.folder, free_port())
    assert same_folder.returncode == 1
    assert "in use by the server with process id" in same_folder.stderr
    same_port = up(tmp_path / "other", served_here.port)
    assert same_port.returncode == 1
    assert "PORT_IN_USE" in same_port.stderr
    for done in (same_folder, same_port):
        assert len(done.stderr.strip().splitlines()) == 1
    with client_of(served_here) as client:
        assert list(client.pools.list())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x", encoding="utf-8")
    done = up(tmp_path, free_port())
    assert done.returncode == 1
    assert "STATE_FOREIGN" in done.stderr


@pytest.mark.parametrize("token", ["garbage", "a.b.c", "x" * 5_000])
def test_a_token_that_is_none_is_refused_in_one_line(served_here: LocalSystem, token: str) -> None:
    done = subprocess.run(
        [ALLOTMENT, "experiments", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ALLOTMENT_SERVER": served_here.address, "ALLOTMENT_TOKEN": token},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "INVALID_TOKEN" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
