"""A trial from its task to its files."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from allotment_core.errors import InvalidArgument, clip
from allotment_learn import fold_files, metrics, splits
from allotment_learn.averaging import average, known_classes
from allotment_learn.errors import DeadlineReached, NotANumber, TrainingRefused
from allotment_learn.features import Features
from allotment_learn.first_fit import FirstFit
from allotment_learn.folds import FoldModel, Looks, fit_fold, library_errors, reads_dates
from allotment_learn.forms import Saved
from allotment_learn.graph.writer import write_graph
from allotment_learn.quirks import reference_rows
from allotment_learn.reference import write_reference
from allotment_learn.task import (
    Floats,
    FoldReport,
    Integers,
    TaskKind,
    TrialOutcome,
    TrialTask,
)

GRAPH_FILE = "model.onnx"
REFERENCE_FILE = "reference.npz"
PREDICTIONS_FILE = "predictions.npz"


def run_trial(
    task: TrialTask,
    out_dir: Path,
    report: Callable[[FoldReport], None],
    monotonic: Callable[[], float] = time.monotonic,
    folds_dir: Path | None = None,
    fit_rungs: tuple[int, ...] = (),
) -> TrialOutcome:
    """Fits fold by fold, reports after each, writes model.onnx, reference.npz and predictions.npz
    to `out_dir`.

    `folds_dir`: fitted folds are kept there, and those that lie there already are not fitted
    again; the outcome is the same, bit by bit. `fit_rungs`: reports within the first fold too,
    when one n-th of its boosting rounds or epochs is done, for each of these n, descending.

    Raises:
        InvalidArgument: the task contradicts itself, or names what is not known here.
        FamilyUnavailable: the family can't be trained on this machine.
        TrainingRefused: the library does not take this configuration with these rows.
        NotANumber: a prediction or the score is not finite.
        DeadlineReached: out of time before the last fold was fitted.
        GraphTooLarge: the model can't be written in a file that can be served.
    """
    check_task(task)
    with threadpool_limits(limits=task.threads), warnings.catch_warnings():
        # Libraries warn about constant columns, few rows and the like: the score says what they
        # mean.
        warnings.simplefilter("ignore")
        with np.errstate(all="ignore"):
            return _run(task, out_dir, report, monotonic, folds_dir, fit_rungs)


@dataclass(frozen=True, slots=True, eq=False)
class _Validated:
    rows: Integers
    predictions: Floats


def _run(
    task: TrialTask,
    out_dir: Path,
    report: Callable[[FoldReport], None],
    monotonic: Callable[[], float],
    folds_dir: Path | None,
    fit_rungs: tuple[int, ...],
) -> TrialOutcome:
    started = monotonic()
    earlier_s = 0.0
    features = Features.of(task.table, with_dates=reads_dates(task))
    folds = divide_rows(task)
    positive = _positive(task)
    models: list[FoldModel] = []
    pieces: list[_Validated] = []

    def spent_s() -> float:
        return earlier_s + first.earlier_s + monotonic() - started

    def tell(score: float, fit_rung: int = 0) -> None:
        report(
            FoldReport(
                finished_folds=len(models),
                fold_count=len(folds),
                score=score,
                fit_s=spent_s(),
                fit_rung=fit_rung,
            )
        )

    def score_so_far(model: FoldModel) -> float:
        rows = folds[0][1]
        found = model.predict(features.take(rows))
        if not np.isfinite(found).all():
            return np.nan
        return _score(task, task.metric, _join([_Validated(rows, found)]), positive)

    first = FirstFit(
        task, fit_rungs, folds_dir, score_so_far, lambda rung, score: tell(score, rung), monotonic
    )
    for train, validation in folds:
        known = fold_files.read_fold(folds_dir, task, len(models) + 1) if folds_dir else None
        begun = monotonic()
        saved = None if known is None else known.saved
        looks = None if models else first.looks(known)
        model = _fit(task, features, train, monotonic, len(models), len(folds), saved, looks)
        models.append(model)
        if known is not None:
            earlier_s += known.fit_s - (monotonic() - begun)
        elif folds_dir is not None:
            _keep(folds_dir, task, models, monotonic() - begun, first)
        pieces.append(_Validated(validation, _predict(model, features.take(validation))))
        validated = _join(pieces)
        score = _score(task, task.metric, validated, positive)
        tell(score)
    if not np.isfinite(score):
        raise NotANumber(f"the score ({task.metric}) of {len(validated.rows)} rows is {score}")
    fit_s = spent_s()
    return _write(task, out_dir, features, models, validated, score=score, fit_s=fit_s)


def _write(
    task: TrialTask,
    out_dir: Path,
    features: Features,
    models: list[FoldModel],
    validated: _Validated,
    *,
    score: float,
    fit_s: float,
) -> TrialOutcome:
    """The trial's files, and what it came to."""
    out_dir.mkdir(parents=True, exist_ok=True)
    graph_path, reference_path = out_dir / GRAPH_FILE, out_dir / REFERENCE_FILE
    graph_path.write_bytes(write_graph(task, features.sources, models))
    _write_reference(reference_path, task, features, validated.rows, models)
    weights = None if task.weights is None else task.weights[validated.rows]
    truth, positive = task.target[validated.rows], _positive(task)
    predictions_path = out_dir / PREDICTIONS_FILE
    np.savez(
        predictions_path,
        rows=validated.rows,
        predictions=validated.predictions,
        truth=truth,
        weights=np.ones(len(truth)) if weights is None else weights,
        positive=np.array(positive),
    )
    return TrialOutcome(
        score=score,
        metrics=metrics.all_scores(task.task, truth, validated.predictions, weights, positive),
        fit_s=fit_s,
        graph_path=graph_path,
        reference_path=reference_path,
        predictions_path=predictions_path,
        fold_count=len(models),
        validation_row_count=len(validated.rows),
    )


def check_task(task: TrialTask) -> None:
    """Raises: InvalidArgument."""
    rows = task.table.row_count
    for what, array in (
        ("target", task.target),
        ("weights", task.weights),
        ("groups", task.groups),
        ("times", task.times),
    ):
        if array is not None and array.shape != (rows,):
            raise InvalidArgument(
                f"{what} has shape {array.shape}, the table has {rows} rows", reason="BAD_TASK"
            )
    if not task.table.columns:
        raise InvalidArgument("the task has no feature column", reason="NO_FEATURES")
    if task.metric not in metrics.metrics_of(task.task):
        raise InvalidArgument(
            f"{task.task.value} has no metric '{clip(task.metric)}'; choose one of "
            f"{', '.join(metrics.metrics_of(task.task))}",
            reason="NO_SUCH_METRIC",
        )
    if task.task is TaskKind.REGRESSION:
        fits = task.target.dtype == np.float64 and bool(np.isfinite(task.target).all())
    else:
        inside = (task.target >= 0) & (task.target < len(task.classes))
        fits = task.target.dtype == np.int64 and bool(inside.all())
    if not fits:
        raise InvalidArgument(
            f"the target is not {len(task.classes)} classes by index, or finite numbers",
            reason="BAD_TARGET",
        )
    if task.weights is not None and not (
        np.isfinite(task.weights).all() and (task.weights >= 0).all() and task.weights.any()
    ):
        raise InvalidArgument(
            "weights have to be finite, not negative, and not all zero", reason="BAD_WEIGHTS"
        )


def divide_rows(task: TrialTask) -> list[splits.Fold]:
    """The task's folds. Raises: InvalidArgument."""
    classifies = task.task is not TaskKind.REGRESSION
    return splits.divide(
        task.split,
        row_count=task.table.row_count,
        strata=task.target.astype(np.int64) if classifies else None,
        keys=task.classes,
        groups=task.groups,
        times=task.times,
    )


def _positive(task: TrialTask) -> int:
    if task.task is not TaskKind.BINARY:
        return 1
    return metrics.rarer_class(task.target.astype(np.int64))


def _fit(
    task: TrialTask,
    features: Features,
    train: Integers,
    monotonic: Callable[[], float],
    finished: int,
    fold_count: int,
    saved: Saved | None,
    looks: Looks | None,
) -> FoldModel:
    def out_of_time() -> bool:
        return task.deadline_monotonic is not None and monotonic() >= task.deadline_monotonic

    if out_of_time():
        raise DeadlineReached(
            f"the deadline came after {finished} of {fold_count} folds", folds=str(finished)
        )
    try:
        return fit_fold(task, features, train, out_of_time, saved, looks)
    except library_errors() as error:
        raise TrainingRefused(
            f"{task.pipeline.family} can't be fitted on {len(train)} rows: {clip(str(error), 400)}"
        ) from error


def _keep(
    folds_dir: Path, task: TrialTask, models: list[FoldModel], fit_s: float, first: FirstFit
) -> None:
    save, told = models[-1].fitted.save, {}
    if len(models) == 1:
        fit_s, told = fit_s + first.earlier_s, first.told
    if save is not None and fit_s >= fold_files.LEAST_FIT_S:
        fold_files.write_fold(folds_dir, task, len(models), save(), fit_s, told)
    if len(models) == 1:
        fold_files.forget_fit(folds_dir)


def _predict(model: FoldModel, features: Features) -> Floats:
    predictions = model.predict(features)
    if not np.isfinite(predictions).all():
        bad = int((~np.isfinite(predictions)).any(axis=1).sum())
        raise NotANumber(f"{bad} of {len(predictions)} predictions are not finite numbers")
    return predictions


def _join(pieces: list[_Validated]) -> _Validated:
    rows = np.concatenate([piece.rows for piece in pieces])
    order = np.argsort(rows, kind="stable")
    predictions = np.concatenate([piece.predictions for piece in pieces])
    return _Validated(rows[order], predictions[order])


def _score(task: TrialTask, metric: str, validated: _Validated, positive: int) -> float:
    weights = None if task.weights is None else task.weights[validated.rows]
    truth = task.target[validated.rows]
    return metrics.score(metric, truth, validated.predictions, weights, positive=positive)


def _write_reference(
    path: Path, task: TrialTask, features: Features, validated: Integers, models: list[FoldModel]
) -> None:
    rng = np.random.default_rng(task.seed)
    rows = reference_rows(task.table, validated, features.sources, models, rng)
    asked = Features.of(rows.table, with_dates=reads_dates(task))
    said = [model.predict(asked) for model in models]
    together = average(said, task.task, known_classes(models))
    write_reference(path, rows, together)
