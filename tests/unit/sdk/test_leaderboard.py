"""What `run` leaves in its folder."""

import csv
from datetime import UTC, datetime
from pathlib import Path

from allotment.cli.leaderboard import ranked, write_files
from allotment.types import Metric, Trial, TrialState


def trial(number: int, score: float | None, state: TrialState = TrialState.SUCCEEDED) -> Trial:
    return Trial(
        name=f"tenants/local/experiments/e/trials/{number}",
        state=state,
        family="linear",
        origin="default",
        score=score,
        metrics={},
        fit_s=0.5,
        attempts=1,
        attempts_by_cause={},
        epoch=1,
        finished_folds=5,
        fold_count=5,
        derivation={},
        problem=None,
        log_tail="",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        start_time=None,
        end_time=None,
    )


TRIALS = [
    trial(1, 0.7),
    trial(2, 0.3),
    trial(3, None, TrialState.CANCELLED),
    trial(10, float("nan"), TrialState.STOPPED),
]


def test_the_best_is_first_and_those_without_a_score_last() -> None:
    assert [t.id for t in ranked(TRIALS, Metric.LOG_LOSS)] == ["2", "1", "3", "10"]
    assert [t.id for t in ranked(TRIALS, Metric.AUC)] == ["1", "2", "3", "10"]


def test_files_replace_older_ones_and_nothing_else_is_left(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    out.mkdir()
    (model / "model.onnx").write_bytes(b"new")
    (model / "manifest.json").write_bytes(b"{}")
    (out / "model.onnx").write_bytes(b"old")
    write_files(out, model, TRIALS, Metric.LOG_LOSS)
    assert sorted(path.name for path in out.iterdir()) == [
        "leaderboard.csv",
        "manifest.json",
        "model.onnx",
    ]
    assert (out / "model.onnx").read_bytes() == b"new"
    with (out / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["trial", "family", "metric", "score", "fit_s", "state"]
    assert [row["trial"] for row in rows] == ["2", "1", "3", "10"]
    assert rows[0] == {
        "trial": "2",
        "family": "linear",
        "metric": "log_loss",
        "score": "0.3",
        "fit_s": "0.500",
        "state": "succeeded",
    }
