"""What a trial is given, what it reports and what it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from allotment_learn.kinds import Floats as Floats
from allotment_learn.kinds import Integers as Integers
from allotment_learn.kinds import SplitMethod as SplitMethod
from allotment_learn.kinds import SplitSpec as SplitSpec
from allotment_learn.kinds import TaskKind as TaskKind
from allotment_learn.table import Table
from allotment_search.pipeline import PipelineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRules:
    """How the dataset version read its file; readers of rows for `predict` do the same."""

    missing_markers: tuple[str, ...] = ()
    decimal: str = "."


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """One trial: data, pipeline, division of the rows, limits.

    `table` holds the features alone, in the order of the model's inputs. `target` is the class
    index (int64) or the value (float64) of each row; rows without a target are left out by the
    caller. `groups` and `times` have a value per row where the split respects groups or time;
    neither may be missing. `deadline_monotonic` is by `time.monotonic()`.
    """

    pipeline: PipelineSpec
    table: Table
    target: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    task: TaskKind
    metric: str
    split: SplitSpec
    seed: int
    classes: tuple[str, ...] = ()
    target_name: str = "target"
    weights: Floats | None = None
    groups: npt.NDArray[np.object_] | Floats | None = None
    times: npt.NDArray[np.object_] | Floats | None = None
    threads: int = 1
    deadline_monotonic: float | None = None
    reading: ReadingRules = field(default_factory=ReadingRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """Sent after each fitted fold; `score` is of the rows validated so far, by the task's
    metric. With a `fit_rung` n it is sent within the first fold, when one n-th of its fit's steps
    is done: the score is the model's so far on that fold's rows."""

    finished_folds: int
    fold_count: int
    score: float
    fit_s: float
    fit_rung: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """What a trial that ended well leaves: scores and three finished files.

    `predictions_path` is an .npz with `rows` (int64: places in the task's table, ascending),
    `predictions` (float64, [rows, classes] or [rows, 1]: those of the models that did not see the
    row), `truth` (int64 or float64), `weights` (float64) and `positive` (the class that binary AP
    and F1 are about).
    """

    score: float
    metrics: Mapping[str, float]
    fit_s: float
    graph_path: Path
    reference_path: Path
    predictions_path: Path
    fold_count: int
    validation_row_count: int
