"""An interrupted trial goes on after its last fold and ends as if nothing had happened."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from allotment_learn import fold_files
from allotment_learn.families import light, offered
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted
from allotment_learn.kinds import TaskKind
from allotment_learn.task import FoldReport, TrialTask
from allotment_learn.trial import run_trial
from allotment_search.pipeline import Component
from allotment_testkit.trials import quirky_task

TREES = ("random_forest", "extra_trees", "hist_gradient_boosting", "lightgbm")


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def _keep_quick_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_files, "LEAST_FIT_S", 0.0)


def task_of(family: str, kind: TaskKind) -> TrialTask:
    if family == "lightgbm" and light.unavailable_because():
        pytest.skip(light.unavailable_because())
    numeric = "native" if offered.takes_missing(family) else "impute"
    return quirky_task(
        family, kind, numeric=Component(numeric, {}), category=Component("ordinal", {})
    )


def interrupt(task: TrialTask, folder: Path, after: int) -> None:
    def report(fold: FoldReport) -> None:
        if fold.finished_folds == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_trial(task, folder / "first", report, folds_dir=folder / "folds")


@pytest.mark.parametrize("kind", TaskKind)
@pytest.mark.parametrize("family", ["linear", *TREES])
def test_what_goes_on_ends_as_what_was_never_interrupted(
    family: str, kind: TaskKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(family, kind)
    whole = run_trial(task, tmp_path / "whole", lambda _: None)
    interrupt(task, tmp_path, after=2)
    fits: list[int] = []
    fit = offered.fitter(family)

    def counted(training: Training) -> Fitted:
        fits.append(len(training.matrix))
        return fit(training)

    known = offered._FAMILIES[family]
    monkeypatch.setattr(importlib.import_module(offered.modules(family)[0]), known.fit, counted)
    reports: list[FoldReport] = []
    resumed = run_trial(task, tmp_path / "last", reports.append, folds_dir=tmp_path / "folds")
    assert len(fits) == 1, "the last fold alone is fitted"
    assert [r.finished_folds for r in reports] == [1, 2, 3]
    assert resumed.graph_path.read_bytes() == whole.graph_path.read_bytes()
    assert resumed.score == whole.score
    for ours, theirs in (
        (resumed.reference_path, whole.reference_path),
        (resumed.predictions_path, whole.predictions_path),
    ):
        with np.load(ours) as a, np.load(theirs) as b:
            assert a.files == b.files
            for name in a.files:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_files_of_other_trials_damaged_and_foreign_ones_are_not_used(tmp_path: Path) -> None:
    task = task_of("linear", TaskKind.BINARY)
    interrupt(task, tmp_path, after=1)
    folds = tmp_path / "folds"
    assert fold_files.read_fold(folds, task, 1) is not None
    assert fold_files.read_fold(folds, task_of("extra_trees", TaskKind.BINARY), 1) is None
    assert fold_files.read_fold(folds, task, 2) is None
    path = fold_files.path_of(folds, 1)
    for damage in (b"", b"not a zip", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        assert fold_files.read_fold(folds, task, 1) is None
    with path.open("wb") as file:
        np.savez(file, header=np.array([{"fold": 1}], dtype=object))
    assert fold_files.read_fold(folds, task, 1) is None, "nothing is unpickled"
    resumed = run_trial(task, tmp_path / "last", lambda _: None, folds_dir=folds)
    assert resumed.score == run_trial(task, tmp_path / "whole", lambda _: None).score


def test_a_fold_of_other_library_versions_is_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of("linear", TaskKind.BINARY)
    interrupt(task, tmp_path, after=1)
    monkeypatch.setattr(fold_files, "_versions", lambda: {"scikit-learn": "0.1"})
    assert fold_files.read_fold(tmp_path / "folds", task, 1) is None


def test_a_quick_fold_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_files, "LEAST_FIT_S", 60.0)
    interrupt(task_of("linear", TaskKind.BINARY), tmp_path, after=1)
    assert not (tmp_path / "folds").exists()
