"""Every real set with one command and no option but the target."""

import csv
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from allotment_testkit.local_system import ALLOTMENT

pytestmark = [pytest.mark.shared_data, pytest.mark.slow]

BUDGET_S = 10.0
LIMIT_S = BUDGET_S + 10.0
"""A run that hangs is found here; how exactly it keeps its time is measured by bench.deadline."""


def sets() -> list[dict[str, str]]:
    root = os.environ.get("ALLOTMENT_TEST_DATA", "")
    if not root:
        return []
    entries = json.loads((Path(root) / "manifest.json").read_text(encoding="utf-8"))
    return [entry for entry in entries if entry["path"].startswith(("tabular/", "text/"))]


@pytest.fixture
def data() -> Path:
    root = os.environ.get("ALLOTMENT_TEST_DATA")
    if not root:
        pytest.skip("ALLOTMENT_TEST_DATA does not name a folder with the real sets")
    return Path(root)


@pytest.mark.parametrize("entry", sets(), ids=lambda each: each["name"])
def test_a_real_set_ends_in_time_with_a_model_that_predicts_its_rows(
    entry: dict[str, str], data: Path, tmp_path: Path
) -> None:
    source = data / entry["path"]
    out = tmp_path / "out"
    command = [ALLOTMENT, "run", str(source), "--target", entry["target"], "--out", str(out)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--budget", f"{BUDGET_S:g}s"], capture_output=True, text=True, check=False
    )
    elapsed_s = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    assert elapsed_s <= LIMIT_S, f"{elapsed_s:.2f} s\n{done.stdout}"

    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    task = entry["task"].removeprefix("text-")
    assert manifest["task"] == task
    with (out / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        board = list(csv.DictReader(file))
    assert len({row["trial"] for row in board}) == len(board) > 0
    assert any(row["state"] == "succeeded" for row in board)

    predictions = tmp_path / "predictions.csv"
    predict = [ALLOTMENT, "predict", str(out / "model.onnx"), str(source)]
    subprocess.run([*predict, "--out", str(predictions)], check=True, capture_output=True)
    with predictions.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    with source.open(newline="", encoding="utf-8") as file:
        source_rows = list(csv.DictReader(file))
    assert len(rows) == len(source_rows)
    if task == "regression":
        assert header == ["prediction"]
    else:
        assert sorted(header) == sorted({row[entry["target"]] for row in source_rows} - {""})
