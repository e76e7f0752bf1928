"""`allotment run` as scripts use it: files, exit codes, interrupts, and nothing left behind."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allotment_testkit.local_system import ALLOTMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
]
MARK = "ALLOTMENT_TEST_MARK"


def write_rows(path: Path, count: int = 400, *, header: str = "age,city,paid,noise,bought") -> Path:
    """Rows that a model can learn something from, with missing cells, Unicode and odd labels."""
    rng = random.Random(11)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        for _ in range(count):
            age, city = rng.randint(18, 80), rng.choice(["Göteborg", "Rome", "Oslo", ""])
            paid = "" if rng.random() < 0.1 else f"{rng.gauss(20, 5):.2f}"
            yes = (age > 45) ^ (city == "Rome") if rng.random() < 0.9 else rng.random() < 0.5
            writer.writerow(
                [age, city, paid, f"{rng.random():.3f}", "ja, klart" if yes else "none"]
            )
    return path


def marked_processes(mark: str) -> list[int]:
    """Live processes that were started, however indirectly, with the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if f"{MARK}={mark}".encode() in environment and state != "Z":
                found.append(int(entry.name))
    return found


def none_left_after(mark: str, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while marked_processes(mark):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


class Run:
    """A started `allotment run` whose output goes to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.out = folder / "out"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._log = folder / "log.txt"
        command = [ALLOTMENT, "run", *arguments, "--out", str(self.out)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ALLOTMENT_")}
        environment |= {MARK: self.mark, "TMPDIR": str(self.temporary)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_until(self, true: Callable[[str], bool], seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while not true(self.said):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.02)

    @property
    def processes(self) -> list[int]:
        return marked_processes(self.mark)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Run]:
    run = Run(folder, *arguments)
    try:
        yield run
    finally:
        for pid in run.processes:
            os.kill(pid, signal.SIGKILL)
        run.process.wait(10)


def allotment(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ALLOTMENT, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_model_a_manifest_and_a_leaderboard(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    started = time.monotonic()
    with running(tmp_path, str(rows), "--target", "bought", "--budget", "10s") as run:
        assert run.process.wait(20) == 0, run.said
        assert time.monotonic() - started <= 20.0
        assert none_left_after(run.mark), run.processes
    assert sorted(os.listdir(run.out)) == ["leaderboard.csv", "manifest.json", "model.onnx"]
    assert os.listdir(run.temporary) == []
    board = read(run.out / "leaderboard.csv")
    assert list(board[0]) == ["trial", "family", "metric", "score", "fit_s", "state"]
    assert len({row["trial"] for row in board}) == len(board)
    assert {row["metric"] for row in board} == {"log_loss"}
    assert json.loads((run.out / "manifest.json").read_text(encoding="utf-8"))["task"] == "binary"

    predictions = tmp_path / "predictions.csv"
    done = allotment("predict", run.out / "model.onnx", rows, "--out", predictions)
    assert done.returncode == 0, done.stderr
    found = read(predictions)
    assert sorted(found[0]) == ["ja, klart", "none"]
    assert len(found) == 400
    assert all(abs(sum(map(float, row.values())) - 1) < 1e-6 for row in found)

    scores = json.loads(allotment("evaluate", run.out, rows, "--json").stdout)
    assert scores["row_count"] == 400
    assert scores["metrics"]["log_loss"] < 0.6

    without = tmp_path / "without.csv"
    without.write_text("city,paid\nRome,1\n", encoding="utf-8")
    done = allotment("predict", run.out / "model.onnx", without, "--out", predictions)
    assert done.returncode == 1
    assert "'age'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_interrupt_writes_the_best_model_so_far(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with running(tmp_path, str(rows), "--target", "bought", "--budget", "5m") as run:
        run.wait_until(lambda said: "model 1:" in said)
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.process.wait(20) == 130, run.said
        assert none_left_after(run.mark), run.processes
    assert (run.out / "model.onnx").stat().st_size > 0
    assert read(run.out / "leaderboard.csv")
    assert os.listdir(run.temporary) == []
    assert "Traceback" not in run.said


def test_the_second_interrupt_aborts(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with running(tmp_path, str(rows), "--target", "bought", "--budget", "5m") as run:
        run.wait_until(lambda said: "learning" in said)
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(20) == 130, run.said
        assert none_left_after(run.mark), run.processes
    assert os.listdir(run.out) == [], "it did not wait for a model"
    assert "Traceback" not in run.said


@pytest.mark.parametrize("delay_s", [0.03, 0.3, 0.8, 1.5])
def test_an_interrupt_at_any_time_leaves_nothing_running(tmp_path: Path, delay_s: float) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with running(tmp_path, str(rows), "--target", "bought", "--budget", "5m") as run:
        time.sleep(delay_s)
        run.process.send_signal(signal.SIGINT)
        status = run.process.wait(20)
        assert none_left_after(run.mark), run.processes
    assert os.listdir(run.temporary) == []
    if "init_import_site" in run.said:
        return  # Python itself was still starting; it ends with status 1 and says why.
    assert status in (130, -signal.SIGINT), run.said
    if delay_s > 0.1:
        assert "Traceback" not in run.said


def test_nothing_survives_a_run_that_is_killed(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with running(tmp_path, str(rows), "--target", "bought", "--budget", "5m") as run:
        run.wait_until(lambda said: "trial" in said)
        run.process.kill()
        assert none_left_after(run.mark), run.processes
        assert os.listdir(run.temporary) == []


def test_sigterm_ends_a_run_and_all_that_it_started(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    with running(tmp_path, str(rows), "--target", "bought", "--budget", "5m") as run:
        run.wait_until(lambda said: "learning" in said)
        run.process.terminate()
        assert run.process.wait(20) == 128 + signal.SIGTERM
        assert none_left_after(run.mark), run.processes
    assert os.listdir(run.temporary) == []


def test_the_same_seed_gives_the_same_leaderboard(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", 200)
    boards = []
    for attempt in ("a", "b"):
        (tmp_path / attempt).mkdir()
        options = ("--target", "bought", "--trials", "5", "--seed", "3", "--max-parallel", "1")
        with running(tmp_path / attempt, str(rows), *options) as run:
            assert run.process.wait(50) == 0, run.said
        board = read(run.out / "leaderboard.csv")
        boards.append([(row["trial"], row["family"], row["score"], row["state"]) for row in board])
    assert boards[0] == boards[1]
    assert len(boards[0]) >= 5


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--target", "bought", "--budget", "9s"), 1, "at least 10 s"),
        (("--target", "bought", "--budget", "soon"), 2, "no duration"),
        (("--target", "zzz", "--budget", "10s"), 1, "zzz"),
        (("--target", "bought", "--budget", "10s", "--task", "clustering"), 1, "clustering"),
        (("--target", "bought", "--budget", "10s", "--metric", "rmse"), 1, "rmse"),
        (("--target", "bought", "--budget", "10s", "--weight", "zzz"), 1, "zzz"),
        (("--budget", "10s"), 2, "--target"),
    ],
)
def test_what_can_not_work_is_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    rows = write_rows(tmp_path / "rows.csv", 60)
    with running(tmp_path, str(rows), *arguments) as run:
        assert run.process.wait(20) == status, run.said
        assert none_left_after(run.mark), run.processes
    errors = [line for line in run.said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, run.said
    assert text in errors[0]
    assert "Traceback" not in run.said
    assert os.listdir(run.temporary) == []


def test_a_file_that_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "nowhere.csv", "--target", "y") as run:
        assert run.process.wait(20) == 1
    assert "nowhere.csv" in run.said
