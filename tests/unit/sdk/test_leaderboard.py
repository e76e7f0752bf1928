"""What `run` leaves in its folder."""

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from allotment.cli.leaderboard import ranked, write_files
from allotment.types import (
    Calibration,
    Metric,
    Model,
    ModelState,
    TaskType,
    Trial,
    TrialState,
)


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


def model(**changed: Any) -> Model:
    plain = Model(
        name="tenants/local/experiments/e/models/7",
        state=ModelState.READY,
        family="linear",
        task=TaskType.BINARY,
        metric=Metric.LOG_LOSS,
        score=0.25,
        metrics={},
        classes=("a", "b"),
        trials=(TRIALS[1].name,),
        export="",
        artefact_sha256="",
        manifest_sha256="",
        artefact_size_bytes=1,
        problem=None,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        ready_time=None,
    )
    return replace(plain, **changed)


def test_a_model_of_several_trials_or_a_calibrated_one_has_a_row_of_its_own() -> None:
    both = model(family="ensemble", trials=(TRIALS[1].name, TRIALS[0].name))
    calibrated = model(calibration=Calibration(temperature=0.5, ece_before=0.1, ece_after=0.01))
    assert "model-best" not in [r.id for r in ranked(TRIALS, Metric.LOG_LOSS, model())]
    for found, fit_s in ((both, 1.0), (calibrated, 0.5)):
        board = ranked(TRIALS, Metric.LOG_LOSS, found)
        assert [r.id for r in board] == ["model-best", "2", "1", "3", "10"]
        assert (board[0].family, board[0].fit_s) == (found.family, fit_s)
        assert board[0].state == "ready"


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
