"""`allotment run --dir` keeps its search, and `--resume` goes on with it."""

import csv
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from allotment_testkit.local_system import ALLOTMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="as the command's other tests"),
]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ALLOTMENT, "run", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def _board(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_kept_search_goes_on_where_it_ended(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [(rng.random(), rng.random()) for _ in range(200)]
    lines = [f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}" for a, b in rows]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,wins", *lines]) + "\n")
    first = _run(
        tmp_path, "rows.csv", "--target", "wins", "--out", "one", "--trials", "3", "--dir", "kept"
    )
    assert first.returncode == 0, first.stderr
    hint = re.search(r"allotment run --resume (\S+) --dir kept --out one", first.stdout)
    assert hint is not None, first.stdout
    second = _run(tmp_path, "--resume", hint[1], "--dir", "kept", "--out", "two", "--trials", "2")
    assert second.returncode == 0, second.stderr
    assert "3 trials so far" in second.stdout
    trials = {row["trial"] for row in _board(tmp_path / "two") if row["trial"].isdecimal()}
    assert trials == {"1", "2", "3", "4", "5"}
    assert (tmp_path / "two" / "model.onnx").stat().st_size > 0


def test_a_search_that_was_not_kept_says_how_to_keep_one(tmp_path: Path) -> None:
    refused = _run(tmp_path, "--resume", "e", "--out", "out", "--trials", "2")
    assert refused.returncode == 1
    assert "[NO_STATE]" in refused.stderr
    assert "--dir" in refused.stderr
    both = _run(tmp_path, "x.csv", "--target", "y", "--resume", "e", "--out", "o", "--dir", ".")
    assert "has its rows and its target" in both.stderr
