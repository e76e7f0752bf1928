"""A machine with `pip install .` and no extras, against a server elsewhere: TLS and a queue."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from allotment_testkit.services_system import ServicesSystem, services_system

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
INSTALL_LIMIT_S = 180.0
AWAY_S = float(os.environ.get("ALLOTMENT_TEST_AWAY_S", "8"))
"""How long the server is away in the middle of a run; clients bear 60 s."""
NOT_THERE = ("numpy", "sqlalchemy", "alembic", "sklearn", "onnx", "pyarrow", "jwt", "grpc_health")


def environment() -> dict[str, str]:
    """Ours without what this repository or another server is found by."""
    return {
        k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("ALLOTMENT_")
    }


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that has the base install alone."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    binaries = folder / "bin"
    command = [str(binaries / "python"), "-m", "pip", "install", "--quiet", str(ROOT)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            timeout=INSTALL_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip installs nothing here within {INSTALL_LIMIT_S:g} s")
    if done.returncode:
        pytest.skip(f"pip can't install here: {done.stderr.strip().splitlines()[-1][:300]}")
    return binaries


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicesSystem]:
    granted = "controller.ALLOTMENT_CONTROLLER_BUDGET_STARTS=granted"
    folder = tmp_path_factory.mktemp("services") / "state"
    with services_system(folder, granted, "allocator.ALLOTMENT_ALLOCATOR_SLOTS=1") as started:
        yield started


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(5)
    lines = ["x0,x1,town,y"]
    for _ in range(400):
        x0, x1 = rng.gauss(0, 1), rng.gauss(0, 1)
        label = "yes" if x0 + x1 + rng.gauss(0, 0.3) > 0 else "no"
        lines.append(f"{x0:.4f},{x1:.4f},{rng.choice('abc')},{label}")
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Run:
    """`allotment run` of the new environment, under way."""

    def __init__(
        self, binaries: Path, system: ServicesSystem, rows: Path, folder: Path, *more: str
    ) -> None:
        self.out = folder / "out"
        self._log = folder / "log.txt"
        command = [str(binaries / "allotment"), "run", str(rows), "--target", "y"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--out", str(self.out), *more],
                stdout=log,
                stderr=log,
                env=environment() | system.environment,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def until(self, text: str, seconds: float = 60.0) -> None:
        give_up = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < give_up, self.said
            time.sleep(0.05)

    def check_files(self) -> None:
        assert sorted(os.listdir(self.out)) == ["leaderboard.csv", "manifest.json", "model.onnx"]
        manifest = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["task"] == "binary"
        with (self.out / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
            board = list(csv.DictReader(file))
        assert any(row["family"] != "constant" for row in board)


def test_no_library_of_the_services_is_there(bin_folder: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {NOT_THERE!r} if u.find_spec(n)])"
    done = subprocess.run(
        [bin_folder / "python", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert done.stdout == "[]\n"


def test_a_run_rides_out_a_server_that_is_away_and_leaves_its_files(
    bin_folder: Path, system: ServicesSystem, rows: Path, tmp_path: Path
) -> None:
    run = Run(bin_folder, system, rows, tmp_path, "--budget", f"{AWAY_S + 22:g}s")
    run.until(" trial 1 constant")
    keeper = psutil.Process(system.process_ids[0])
    # Nobody starts the gateway again while its keeper is stopped.
    keeper.suspend()
    try:
        system.kill("gateway")
        run.until(f"no answer from {system.address}", 20.0)
        time.sleep(AWAY_S)
    finally:
        keeper.resume()
    run.until(f"{system.address} answers again", 20.0)
    assert run.process.wait(60) == 0, run.said
    assert "the budget counts from now" in run.said
    run.check_files()


def test_a_run_that_waits_in_the_queue_says_so_and_still_has_its_whole_budget(
    bin_folder: Path, system: ServicesSystem, rows: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    other = Run(bin_folder, system, rows, first, "--budget", "60s")
    other.until(" trial 1 constant")
    run = Run(bin_folder, system, rows, second, "--budget", "10s")
    run.until("waiting: ")
    time.sleep(11.0)
    assert run.process.poll() is None, run.said
    other.process.send_signal(signal.SIGINT)
    assert other.process.wait(60) == 130, other.said
    run.until("the budget counts from now")
    begun = time.monotonic()
    assert run.process.wait(60) == 0, run.said
    assert time.monotonic() - begun > 7.0
    run.check_files()


def test_a_queue_timeout_ends_a_run_with_what_it_waited_for(
    bin_folder: Path, system: ServicesSystem, rows: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    other = Run(bin_folder, system, rows, first, "--budget", "60s")
    try:
        other.until(" trial 1 constant")
        run = Run(bin_folder, system, rows, second, "--budget", "10s", "--queue-timeout", "3s")
        assert run.process.wait(60) == 1, run.said
        assert "QUEUE_TIMEOUT" in run.said
        assert "no trainer came within the queue timeout of 3 s; it waited for" in run.said
        assert os.listdir(run.out) == []
    finally:
        other.process.kill()
        other.process.wait()


if sys.platform != "linux":
    pytestmark.append(pytest.mark.skip(reason="stops and continues processes"))
