"""Trials: reports, limits, errors, files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allotment_core.errors import AllotmentError, InvalidArgument
from allotment_learn.errors import (
    DeadlineReached,
    FamilyUnavailable,
    NotANumber,
    TrainingRefused,
)
from allotment_learn.families import light, offered
from allotment_learn.features import Features
from allotment_learn.folds import FoldModel
from allotment_learn.kinds import SplitMethod, TaskKind
from allotment_learn.metrics import score
from allotment_learn.table import Table
from allotment_learn.task import Floats, FoldReport, TrialTask
from allotment_learn.trial import run_trial
from allotment_search.pipeline import Component, PipelineSpec
from allotment_testkit.trials import quirky_task

NATIVE, IMPUTE = Component("native", {}), Component("impute", {})
ORDINAL = Component("ordinal", {})


def task_of(family: str, kind: TaskKind = TaskKind.BINARY, **options: Any) -> TrialTask:
    numeric = NATIVE if family in ("lightgbm", "hist_gradient_boosting") else IMPUTE
    return replace(quirky_task(family, kind, numeric=numeric, category=ORDINAL), **options)


def test_each_fold_is_reported_and_the_last_report_is_the_score(tmp_path: Path) -> None:
    reports: list[FoldReport] = []
    outcome = run_trial(task_of("lightgbm"), tmp_path, reports.append)
    assert [(r.finished_folds, r.fold_count) for r in reports] == [(1, 3), (2, 3), (3, 3)]
    assert reports[-1].score == outcome.score == outcome.metrics["log_loss"]
    assert outcome.fold_count == 3
    assert outcome.validation_row_count == 120
    assert set(outcome.metrics) == {"log_loss", "auc", "ap", "accuracy", "f1", "ece"}


def test_predictions_are_those_of_rows_that_no_model_saw(tmp_path: Path) -> None:
    hold_out = task_of("linear").split
    split = replace(hold_out, method=SplitMethod.HOLD_OUT)
    outcome = run_trial(task_of("linear", split=split), tmp_path, lambda _: None)
    with np.load(outcome.predictions_path, allow_pickle=False) as stored:
        assert stored["predictions"].shape == (outcome.validation_row_count, 2)
        found = score("log_loss", stored["truth"], stored["predictions"], stored["weights"])
        assert found == outcome.score
        assert stored["positive"] in (0, 1)
        assert (np.diff(stored["rows"]) > 0).all()
    assert outcome.fold_count == 1
    assert outcome.validation_row_count == 40


@pytest.mark.parametrize("family", sorted({"linear", "random_forest", "lightgbm"}))
def test_same_seed_gives_the_same_score_and_files(family: str, tmp_path: Path) -> None:
    first = run_trial(task_of(family), tmp_path / "1", lambda _: None)
    second = run_trial(task_of(family), tmp_path / "2", lambda _: None)
    assert first.score == second.score
    for name in ("model.onnx", "reference.npz", "predictions.npz"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_deadline_between_folds_ends_the_trial(tmp_path: Path) -> None:
    reports: list[FoldReport] = []
    with pytest.raises(DeadlineReached, match="after 2 of 3 folds") as caught:
        run_trial(
            task_of("constant", deadline_monotonic=1.0),
            tmp_path,
            reports.append,
            monotonic=lambda: float(len(reports) >= 2),
        )
    assert caught.value.reason == "DEADLINE"
    assert not list(tmp_path.iterdir())


def test_deadline_ends_boosting_between_two_rounds(tmp_path: Path) -> None:
    ticks = iter(range(1_000))
    with pytest.raises(DeadlineReached, match="boosting"):
        run_trial(
            task_of("lightgbm", deadline_monotonic=4.0),
            tmp_path,
            lambda _: None,
            monotonic=lambda: float(next(ticks)),
        )


@pytest.mark.parametrize("kind", [TaskKind.BINARY, TaskKind.REGRESSION])
def test_heavy_rows_pull_the_model(kind: TaskKind, tmp_path: Path) -> None:
    task = task_of("constant", kind)
    high = task.target >= np.median(task.target)
    weighted = replace(task, weights=np.where(high, 100.0, 1.0))
    plain = run_trial(task, tmp_path / "plain", lambda _: None)
    heavy = run_trial(weighted, tmp_path / "heavy", lambda _: None)
    with np.load(plain.predictions_path) as one, np.load(heavy.predictions_path) as other:
        assert (other["predictions"][:, -1] > one["predictions"][:, -1]).all()


def test_a_class_that_training_rows_lack_gets_probability_zero(tmp_path: Path) -> None:
    task = task_of("hist_gradient_boosting", TaskKind.MULTICLASS)
    (lonely,) = np.flatnonzero(task.target == 3)
    outcome = run_trial(task, tmp_path, lambda _: None)
    with np.load(outcome.predictions_path) as stored:
        assert stored["predictions"].shape == (120, 4)
        assert stored["predictions"][lonely, 3] == 0.0
        assert np.allclose(stored["predictions"].sum(axis=1), 1.0)
    assert np.isfinite(outcome.score)


def test_a_fold_with_one_class_predicts_it(tmp_path: Path) -> None:
    task = task_of("linear")
    target = np.zeros(120, dtype=np.int64)
    target[7] = 1
    outcome = run_trial(replace(task, target=target), tmp_path, lambda _: None)
    assert np.isfinite(outcome.score)


@pytest.mark.parametrize("family", ["linear", "random_forest", "lightgbm"])
def test_a_table_of_empty_columns_still_gets_a_model(family: str, tmp_path: Path) -> None:
    task = task_of(family)
    columns = [c for c in task.table.columns if c.name in ("empty", "no string")]
    table = Table.of(columns, task.table.arrays, 120)
    outcome = run_trial(replace(task, table=table), tmp_path, lambda _: None)
    assert outcome.score == pytest.approx(np.log(2), rel=0.05)


def test_what_a_library_refuses_is_the_configurations_fault(tmp_path: Path) -> None:
    task = task_of("random_forest")
    components = {**task.pipeline.components, "model": Component("m", {"max_features": 7.0})}
    with pytest.raises(TrainingRefused, match="random_forest can't be fitted on 80 rows"):
        run_trial(
            replace(task, pipeline=PipelineSpec("random_forest", components)),
            tmp_path,
            lambda _: None,
        )


def test_predictions_that_are_no_numbers_end_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FoldModel, features: Features) -> Floats:
        return np.full((features.row_count, 2), np.nan)

    monkeypatch.setattr(FoldModel, "predict", broken)
    with pytest.raises(NotANumber, match="40 of 40 predictions"):
        run_trial(task_of("constant"), tmp_path, lambda _: None)


def test_a_family_that_can_not_be_loaded_is_hidden_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "_problem", lambda: "install libgomp1")
    hidden = {f.family: f for f in offered.offered_families()}["lightgbm"]
    assert not hidden.available
    assert hidden.reason == "install libgomp1"
    with pytest.raises(FamilyUnavailable, match="libgomp1"):
        run_trial(task_of("lightgbm"), tmp_path, lambda _: None)


def test_all_families_are_offered_here() -> None:
    assert all(family.available for family in offered.offered_families())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": "rmse"}, "NO_SUCH_METRIC"),
        ({"target": np.full(120, 2)}, "BAD_TARGET"),
        ({"target": np.zeros(120)}, "BAD_TARGET"),
        ({"target": np.zeros(7, dtype=np.int64)}, "BAD_TASK"),
        ({"weights": np.zeros(120)}, "BAD_WEIGHTS"),
        ({"weights": np.full(120, np.nan)}, "BAD_WEIGHTS"),
        ({"table": Table.of([], {}, 120)}, "NO_FEATURES"),
        ({"pipeline": PipelineSpec("oracle", {})}, "NO_SUCH_FAMILY"),
        ({"pipeline": PipelineSpec("linear", {"numeric": NATIVE})}, "BAD_PIPELINE"),
        ({"pipeline": PipelineSpec("linear", {"date": NATIVE})}, "NO_SUCH_COMPONENT"),
        ({"pipeline": PipelineSpec("constant", {"target": NATIVE})}, "NO_SUCH_COMPONENT"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        run_trial(task_of("constant", **change), tmp_path, lambda _: None)
    assert caught.value.reason == reason


def test_log_targets_have_to_be_above_minus_one(tmp_path: Path) -> None:
    task = quirky_task(
        "linear", TaskKind.REGRESSION, numeric=IMPUTE, category=ORDINAL, target="log1p"
    )
    with pytest.raises(AllotmentError, match="targets above -1"):
        run_trial(replace(task, target=np.asarray(task.target - 1e7)), tmp_path, lambda _: None)
