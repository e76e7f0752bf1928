"""The first fit is looked at on its way, leaves no trace of it, and goes on to the same bits."""

import math
from pathlib import Path

import numpy as np
import pytest

from allotment_learn import fold_files
from allotment_learn.families import light, mlp
from allotment_learn.kinds import SplitMethod, TaskKind
from allotment_learn.task import FoldReport, TrialOutcome, TrialTask
from allotment_learn.trial import run_trial
from allotment_search.halving import SCALES
from allotment_search.pipeline import Component
from allotment_testkit.trials import quirky_task

FAMILIES = {
    "lightgbm": ("n_estimators", 95),
    "hist_gradient_boosting": ("max_iter", 95),
    "mlp": ("epochs", 28),
}
MORE: dict[str, dict[str, str | float | int | bool]] = {
    "lightgbm": {"bagging_fraction": 0.7, "feature_fraction": 0.8, "min_child_samples": 5},
    "hist_gradient_boosting": {"min_samples_leaf": 5},
    "mlp": {"patience": 28, "width": 16, "layers": 1},
}
RUNGS = (9, 3)

pytestmark = pytest.mark.timeout(180)
"""torch and its exporter take seconds to import, and busy machines longer."""


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def _keep_quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_files, "LEAST_FIT_S", 0.0)


def task_of(
    family: str, kind: TaskKind = TaskKind.BINARY, hold_out: bool = False, steps: int = 0
) -> TrialTask:
    problem = {"lightgbm": light, "mlp": mlp}.get(family)
    if problem is not None and problem.unavailable_because():
        pytest.skip(problem.unavailable_because())
    scale = {"scale": "standard"} if family == "mlp" else {}
    numeric = Component("impute", scale) if family == "mlp" else Component("native", {})
    name, usual = FAMILIES[family]
    return quirky_task(
        family,
        kind,
        numeric=numeric,
        category=Component("ordinal", {}),
        method=SplitMethod.HOLD_OUT if hold_out else SplitMethod.FOLDS,
        rows=240 if family != "mlp" else 120,
        params={name: steps or usual, **MORE[family]},
    )


def assert_equal(ours: TrialOutcome, theirs: TrialOutcome) -> None:
    assert ours.graph_path.read_bytes() == theirs.graph_path.read_bytes()
    assert ours.score == theirs.score
    assert ours.predictions_path.read_bytes() == theirs.predictions_path.read_bytes()
    with np.load(ours.reference_path) as a, np.load(theirs.reference_path) as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def interrupt(task: TrialTask, folder: Path, rung: int) -> list[FoldReport]:
    told: list[FoldReport] = []

    def report(fold: FoldReport) -> None:
        told.append(fold)
        if fold.fit_rung == rung:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_trial(task, folder / "first", report, folds_dir=folder / "folds", fit_rungs=RUNGS)
    return told


@pytest.mark.parametrize(
    ("kind", "hold_out"), [(TaskKind.BINARY, False), *((kind, True) for kind in TaskKind)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_goes_on_within_a_fit_ends_as_what_was_never_looked_at(
    family: str, kind: TaskKind, hold_out: bool, tmp_path: Path
) -> None:
    task = task_of(family, kind, hold_out)
    whole = run_trial(task, tmp_path / "whole", lambda _: None)
    reports: list[FoldReport] = []
    seen = run_trial(task, tmp_path / "seen", reports.append, fit_rungs=RUNGS)
    assert_equal(seen, whole)
    assert [(r.finished_folds, r.fit_rung) for r in reports[:3]] == [(0, 9), (0, 3), (1, 0)]
    assert all(math.isfinite(r.score) for r in reports)
    told = interrupt(task, tmp_path, rung=9)
    assert [r.score for r in told] == [reports[0].score]
    # It was put off where it was judged first, and is judged there no more.
    again: list[FoldReport] = []
    resumed = run_trial(
        task, tmp_path / "last", again.append, folds_dir=tmp_path / "folds", fit_rungs=(3,)
    )
    assert_equal(resumed, whole)
    assert [r.score for r in again] == [r.score for r in reports[1:]]
    assert not list((tmp_path / "folds").glob("fit-*")), "the state goes with the fit"


@pytest.mark.parametrize(("family", "kept"), [("lightgbm", 0), ("mlp", 10)])
def test_a_fit_that_can_go_on_leaves_its_state_before_its_score_is_told(
    family: str, kept: int, tmp_path: Path
) -> None:
    interrupt(task_of(family), tmp_path, rung=3)
    names = [path.name for path in (tmp_path / "folds").glob("*")]
    assert names == ([f"fit-{kept:06}.npz"] if kept else [])


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_that_were_told_are_told_again_after_the_fold_is_done(
    family: str, tmp_path: Path
) -> None:
    """A trainer fits on until it hears that the trial is put off."""
    task = task_of(family)
    whole = run_trial(task, tmp_path / "whole", lambda _: None)
    first: list[FoldReport] = []

    def report(fold: FoldReport) -> None:
        first.append(fold)
        if fold.finished_folds == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_trial(task, tmp_path / "a", report, folds_dir=tmp_path / "folds", fit_rungs=RUNGS)
    again: list[FoldReport] = []
    resumed = run_trial(
        task, tmp_path / "b", again.append, folds_dir=tmp_path / "folds", fit_rungs=(3,)
    )
    assert_equal(resumed, whole)
    assert [(r.finished_folds, r.fit_rung) for r in again[:3]] == [(0, 3), (1, 0), (2, 0)]
    assert [r.score for r in again[:3]] == [r.score for r in first[1:4]]


def test_a_few_steps_tell_nothing(tmp_path: Path) -> None:
    reports: list[FoldReport] = []
    run_trial(task_of("lightgbm", steps=40), tmp_path, reports.append, fit_rungs=RUNGS)
    assert [r.fit_rung for r in reports if r.fit_rung] == [3]
    assert SCALES["lightgbm"].step_at(9, 40) == 0


def test_families_without_steps_are_not_looked_at(tmp_path: Path) -> None:
    task = quirky_task(
        "extra_trees",
        TaskKind.BINARY,
        numeric=Component("impute", {}),
        category=Component("ordinal", {}),
    )
    reports: list[FoldReport] = []
    run_trial(task, tmp_path, reports.append, fit_rungs=RUNGS)
    assert not any(r.fit_rung for r in reports)


def test_a_damaged_state_costs_time_alone(tmp_path: Path) -> None:
    task = task_of("hist_gradient_boosting")
    whole = run_trial(task, tmp_path / "whole", lambda _: None)
    interrupt(task, tmp_path, rung=9)
    [path] = (tmp_path / "folds").glob("fit-*.npz")
    contents = path.read_bytes()
    for place, left in enumerate((contents, contents[:-40], b"")):
        folds = tmp_path / f"folds-{place}"
        folds.mkdir()
        (folds / path.name).write_bytes(left)
        resumed = run_trial(task, tmp_path / "last", lambda _: None, folds_dir=folds)
        assert_equal(resumed, whole)
        assert not (folds / path.name).exists()
