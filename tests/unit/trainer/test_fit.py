"""From a job to a task: targets, weights, groups and times as the experiment means them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allotment_core.errors import InvalidArgument
from allotment_search import Grammar
from allotment_trainer.domain.job import JobColumn, JobSplit, TrialJob
from allotment_trainer.fit import task_of

ROWS = 6
DATA = {
    "x": [1.0, 2.0, float("nan"), 4.0, 5.0, 6.0],
    "c": ["a", "", "b", "a", "ü", "b"],
    "label": ["yes", "no", "", "yes", "no", "yes"],
    "grade": [7.0, 1.0, 7.0, float("nan"), 0.5, 1.0],
    "y": [0.1, 0.2, float("nan"), 0.4, 0.5, 0.6],
    "w": [1.0, float("nan"), 1.0, 2.0, 0.0, 1.0],
    "day": ["2026-01-02", "2026-01-01", "2026-01-03", "", "2026-01-05", "2026-01-06"],
}
COLUMNS = (
    JobColumn(name="x", type="numeric"),
    JobColumn(name="c", type="categorical"),
    JobColumn(name="label", type="categorical"),
    JobColumn(name="grade", type="numeric", spellings=((7.0, "007"), (1.0, "1.0"))),
    JobColumn(name="y", type="numeric"),
    JobColumn(name="w", type="numeric"),
    JobColumn(name="day", type="date", date_format="%Y-%m-%d"),
)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    part = tmp_path / "part.parquet"
    pq.write_table(pa.table(DATA), part)
    table = tmp_path / "table"
    table.mkdir()
    choices = tuple((c.symbol, c.value) for c in _derivation())

    def job(**changes: Any) -> TrialJob:
        values: dict[str, Any] = {
            "trial": "tenants/t/experiments/e/trials/1",
            "epoch": 1,
            "family": "constant",
            "choices": choices,
            "parts": ("0" * 64,),
            "columns": COLUMNS,
            "features": ("x", "c"),
            "target": "label",
            "task": "binary",
            "classes": ("no", "yes"),
            "metric": "log_loss",
            "split": JobSplit(method="folds", part_count=2, seed=1),
            "seed": 1,
            "threads": 1,
            "memory_bytes": 1 << 30,
            "part_paths": (str(part),),
            "table_dir": str(table),
        }
        return TrialJob(**{**values, **changes})

    return job


def _derivation() -> Any:
    return Grammar.load("tabular").default("constant")


def test_rows_without_a_label_are_left_out(make: Any) -> None:
    task = task_of(make())
    assert task.target.tolist() == [1, 0, 1, 0, 1]
    assert task.table.row_count == 5
    assert task.table.arrays["c"].tolist() == ["a", "", "a", "ü", "b"]


def test_numeric_classes_are_found_by_their_spelling(make: Any) -> None:
    task = task_of(make(target="grade", task="multiclass", classes=("0.5", "1.0", "007")))
    assert task.target.tolist() == [2, 1, 2, 0, 1]


def test_regression_takes_the_values(make: Any) -> None:
    task = task_of(make(target="y", task="regression", classes=(), metric="rmse"))
    assert task.target.tolist() == [0.1, 0.2, 0.4, 0.5, 0.6]


def test_a_class_that_nobody_named_is_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument, match="'yes'"):
        task_of(make(classes=("no", "maybe")))


def test_a_row_without_a_weight_does_not_count(make: Any) -> None:
    task = task_of(make(weight_column="w"))
    assert task.weights is not None
    assert task.weights.tolist() == [1.0, 0.0, 2.0, 0.0, 1.0]


def test_groups_and_times_come_with_the_rows(make: Any) -> None:
    split = JobSplit(method="folds", part_count=2, seed=1, group_column="c", time_column="day")
    task = task_of(make(split=split))
    assert task.groups is not None
    assert task.times is not None
    assert task.groups.tolist() == ["a", "", "a", "ü", "b"]
    assert np.argsort(task.times[[0, 1, 3, 4]]).tolist() == [1, 0, 2, 3]


def test_the_second_trial_reads_what_the_first_kept(make: Any, tmp_path: Path) -> None:
    first = task_of(make())
    (tmp_path / "part.parquet").unlink()
    second = task_of(make())
    assert second.target.tolist() == first.target.tolist()
    for name in ("x", "c"):
        np.testing.assert_array_equal(second.table.arrays[name], first.table.arrays[name])


def test_a_job_travels_as_json(make: Any) -> None:
    job = make(split=JobSplit(method="folds", part_count=2, seed=1, group_column="c"))
    assert TrialJob.from_json(job.to_json()) == job
