"""From a job to a trained model: reads the table, sets the task up, leaves it to learn."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from allotment_core.errors import InvalidArgument, clip
from allotment_learn.dates import DatePattern, epoch_days
from allotment_learn.families import offered
from allotment_learn.table import Array, Column, ColumnKind, Table
from allotment_learn.task import (
    FoldReport,
    ReadingRules,
    SplitMethod,
    SplitSpec,
    TaskKind,
    TrialTask,
)
from allotment_learn.trial import run_trial
from allotment_search import Choice
from allotment_trainer import table_store
from allotment_trainer.checkpoints import FOLDS_DIR
from allotment_trainer.domain.attempts import Finished
from allotment_trainer.domain.job import JobColumn, TrialJob
from allotment_trainer.domain.reports import Progress

_KINDS = {kind.value: kind for kind in ColumnKind}


def run(job: TrialJob, folder: Path, report: Callable[[Progress], None]) -> Finished:
    """The TrialFunction of this product. Raises: what `run_trial` raises; InvalidArgument for a job
    that can't be.
    """

    def after_fold(fold: FoldReport) -> None:
        report(
            Progress(
                finished_folds=fold.finished_folds,
                fold_count=fold.fold_count,
                score=fold.score if np.isfinite(fold.score) else None,
                fit_rung=fold.fit_rung,
            )
        )

    outcome = run_trial(
        task_of(job), folder, after_fold, folds_dir=folder / FOLDS_DIR, fit_rungs=job.fit_rungs
    )
    return Finished(
        score=outcome.score,
        metrics=dict(outcome.metrics),
        fit_s=outcome.fit_s,
        fold_count=outcome.fold_count,
        validation_row_count=outcome.validation_row_count,
        graph=outcome.graph_path.name,
        reference=outcome.reference_path.name,
        predictions=outcome.predictions_path.name,
    )


def task_of(job: TrialJob) -> TrialTask:
    """The job's task, with its data. Rows without a target are left out."""
    parts = [Path(path) for path in job.part_paths]
    arrays, row_count = table_store.load(Path(job.table_dir), parts, job.columns)
    target_column = _column(job, job.target)
    target, labelled = _target(job, target_column, arrays[job.target])
    if not labelled.all():
        arrays = {name: array[labelled] for name, array in arrays.items()}
        target, row_count = target[labelled], int(labelled.sum())
    columns = [_feature(_column(job, name)) for name in job.features]
    weights = arrays[job.weight_column] if job.weight_column else None
    return TrialTask(
        pipeline=offered.grammar().resolve(tuple(Choice(s, v) for s, v in job.choices)),
        table=Table.of(columns, arrays, row_count),
        target=target,
        task=TaskKind(job.task),
        metric=job.metric,
        split=SplitSpec(
            method=SplitMethod(job.split.method),
            part_count=job.split.part_count,
            seed=job.split.seed,
        ),
        seed=job.seed,
        classes=job.classes,
        target_name=job.target,
        # A row without a weight does not count.
        weights=None if weights is None else np.nan_to_num(weights, nan=0.0),
        groups=arrays[job.split.group_column] if job.split.group_column else None,
        times=_times(job, arrays),
        threads=job.threads,
        deadline_monotonic=job.deadline_monotonic,
        reading=ReadingRules(missing_markers=job.missing_markers, decimal=job.decimal or "."),
    )


def _column(job: TrialJob, name: str) -> JobColumn:
    column = job.column(name)
    if column is None:
        raise InvalidArgument(f"the table has no column '{clip(name)}'", reason="NO_SUCH_COLUMN")
    return column


def _feature(column: JobColumn) -> Column:
    kind = _KINDS.get(column.type)
    if kind is None:
        raise InvalidArgument(
            f"column '{clip(column.name)}' holds {column.type}, which models can't read; ignore it",
            reason="BAD_COLUMN",
        )
    return Column(name=column.name, type=kind, date_format=column.date_format)


def _target(
    job: TrialJob, column: JobColumn, cells: Array
) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The target of each row, and which rows have one."""
    if job.task == TaskKind.REGRESSION.value:
        if not column.is_numeric:
            raise InvalidArgument(
                f"target '{clip(column.name)}' holds strings; regression needs numbers",
                reason="TARGET_NOT_NUMERIC",
            )
        return cells, ~np.isnan(cells)
    if column.is_numeric:
        values, places = np.unique(cells, return_inverse=True)
        classes = _classes_by_value(column, job.classes)
        codes = np.array([_class_of(classes, v, column, np.isnan(v)) for v in values], np.int64)
        codes = codes[places]
    else:
        spelt = {text: index for index, text in enumerate(job.classes)}
        by_cell = {c: _class_of(spelt, c, column, c == "") for c in dict.fromkeys(cells)}
        codes = np.fromiter((by_cell[cell] for cell in cells), np.int64, len(cells))
    return codes, codes >= 0


def _classes_by_value(column: JobColumn, classes: tuple[str, ...]) -> Mapping[float, int]:
    """Which number each class spells: as the file spelt it, else as it reads."""
    spelt = {text: value for value, text in column.spellings}
    try:
        return {spelt[t] if t in spelt else float(t): i for i, t in enumerate(classes)}
    except ValueError:
        raise InvalidArgument(
            f"target '{clip(column.name)}' holds numbers, but not all classes are numbers",
            reason="BAD_CLASSES",
        ) from None


def _class_of(
    classes: Mapping[float, int] | Mapping[str, int],
    value: float | str,
    column: JobColumn,
    missing: bool,
) -> int:
    if missing:
        return -1
    index = classes.get(value)  # type: ignore[arg-type]
    if index is None:
        raise InvalidArgument(
            f"target '{clip(column.name)}' has a row of class '{clip(str(value))}', "
            "which is not among the experiment's classes",
            reason="UNKNOWN_CLASS",
        )
    return index


def _times(job: TrialJob, arrays: Mapping[str, Array]) -> Array | None:
    """What rows are ordered by; a row without a time is older than all."""
    if not job.split.time_column:
        return None
    column, cells = _column(job, job.split.time_column), arrays[job.split.time_column]
    if column.type != ColumnKind.DATE.value:
        return cells
    return epoch_days(list(cells), DatePattern.parse(column.date_format))
