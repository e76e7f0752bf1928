"""Versions seen with a target: task, classes, columns that give it away."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from allotment_core.errors import InvalidArgument
from allotment_dataset.domain.parsing import ImportJob
from allotment_dataset.domain.table import Inspection, TaskType
from allotment_dataset.parse.job import run_import
from allotment_dataset.parse.target import inspect

Look = Callable[..., Inspection]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Imports columns and looks at "y"."""

    def run(
        columns: Mapping[str, Sequence[object]],
        target: str = "y",
        task: TaskType = TaskType.UNSPECIFIED,
        hint: str = "",
    ) -> Inspection:
        lines = [
            ",".join(columns),
            *(",".join(map(str, r)) for r in zip(*columns.values(), strict=True)),
        ]
        source = tmp_path / "source"
        source.write_text("\n".join(lines) + "\n")
        job = ImportJob(
            source=str(source), source_sha256="", out_dir=str(tmp_path), target_hint=hint
        )
        outcome = run_import(job, lambda *_: None)
        return inspect([Path(outcome.part_path)], outcome.content.columns, target, task)

    return run


def labels(inspection: Inspection) -> list[str]:
    return [c.value for c in inspection.classes]


def reasons(inspection: Inspection) -> set[str]:
    return {w.reason for w in inspection.warnings}


X = [i % 7 for i in range(100)]


class TestTask:
    @pytest.mark.parametrize(
        ("values", "task"),
        [
            (["no", "yes"] * 50, TaskType.BINARY),
            (["true", "false"] * 50, TaskType.BINARY),
            ([0, 1] * 50, TaskType.BINARY),
            ([1.5, 2.5] * 50, TaskType.BINARY),
            (["a", "b", "c", "d"] * 25, TaskType.MULTICLASS),
            ([1, 2, 3, 4] * 25, TaskType.MULTICLASS),
            ([1, 2, 3, 4, 5] * 20, TaskType.REGRESSION),
            ([1.5, 2, 3] * 33 + [1.5], TaskType.REGRESSION),
            (list(range(100)), TaskType.REGRESSION),
        ],
    )
    def test_the_task_is_inferred(
        self, look: Look, values: Sequence[object], task: TaskType
    ) -> None:
        assert look({"x": X, "y": values}).task is task

    def test_integers_of_a_large_table_are_classes_up_to_twenty(self, look: Look) -> None:
        rows = 1000
        few, many = [i % 20 for i in range(rows)], [i % 21 for i in range(rows)]
        assert look({"x": range(rows), "y": few}).task is TaskType.MULTICLASS
        assert look({"x": range(rows), "y": many}).task is TaskType.REGRESSION

    def test_a_wanted_task_is_obeyed(self, look: Look) -> None:
        columns = {"x": X, "y": [1, 2, 3, 4, 5] * 20}
        assert look(columns, task=TaskType.MULTICLASS).task is TaskType.MULTICLASS
        columns = {"x": X, "y": [0, 1] * 50}
        assert look(columns, task=TaskType.REGRESSION).task is TaskType.REGRESSION

    @pytest.mark.parametrize(
        ("values", "task", "reason"),
        [
            (["yes"] * 100, TaskType.UNSPECIFIED, "ONE_CLASS"),
            ([5] * 100, TaskType.REGRESSION, "ONE_CLASS"),
            ([""] * 100, TaskType.UNSPECIFIED, "TARGET_EMPTY"),
            (["a", "b", "c", "a"] * 25, TaskType.BINARY, "NOT_BINARY"),
            (["a", "b"] * 50, TaskType.MULTICLASS, "NOT_MULTICLASS"),
            (["a", "b"] * 50, TaskType.REGRESSION, "TARGET_NOT_NUMERIC"),
            ([*range(99), "inf"], TaskType.UNSPECIFIED, "TARGET_INFINITE"),
            (["a", "b" * 1001] * 50, TaskType.UNSPECIFIED, "LABEL_TOO_LONG"),
        ],
    )
    def test_what_cannot_be_learnt_is_refused(
        self, look: Look, values: Sequence[object], task: TaskType, reason: str
    ) -> None:
        with pytest.raises(InvalidArgument) as caught:
            look({"x": X, "y": values}, task=task)
        assert caught.value.reason == reason
        assert caught.value.violations[0].field == "target"

    def test_too_many_classes_are_refused(self, look: Look) -> None:
        values = [f"c{i % 1001}" for i in range(2002)]
        with pytest.raises(InvalidArgument, match="1001 classes; the limit is 1000") as caught:
            look({"x": range(2002), "y": values})
        assert caught.value.reason == "TOO_MANY_CLASSES"

    def test_a_target_that_is_not_there_is_guessed(self, look: Look) -> None:
        with pytest.raises(InvalidArgument, match="did you mean 'y'"):
            look({"x": X, "y": X}, target="Y")


class TestClasses:
    def test_classes_are_as_spelt_and_in_code_point_order(self, look: Look) -> None:
        found = look({"x": X, "y": ["b", "B", "none", "Ä"] * 25})
        assert labels(found) == ["B", "b", "none", "Ä"]
        assert [c.count for c in found.classes] == [25] * 4

    def test_numbers_are_in_ascending_order_as_spelt_first(self, look: Look) -> None:
        values = ["10.0", "2", "-1", "02"] * 25
        assert labels(look({"x": X, "y": values}, task=TaskType.MULTICLASS)) == ["-1", "2", "10.0"]

    def test_rows_without_a_target_are_left_out_and_told(self, look: Look) -> None:
        found = look({"x": X, "y": ["a", "b", "", "a"] * 25})
        assert found.labelled_row_count == 75
        assert "MISSING_TARGETS" in reasons(found)

    def test_rare_classes_are_told(self, look: Look) -> None:
        found = look({"x": X, "y": ["a"] * 95 + ["b"] * 5})
        assert "CLASS_IMBALANCE" in reasons(found)
        assert "CLASS_IMBALANCE" not in reasons(look({"x": X, "y": ["a"] * 80 + ["b"] * 20}))


class TestGiveaways:
    @pytest.fixture
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(1)

    def _told(self, found: Inspection) -> set[str]:
        return {w.column for w in found.warnings if w.reason == "NEAR_PERFECT_COLUMN"}

    def test_columns_that_tell_a_class_are_named(
        self, look: Look, rng: np.random.Generator
    ) -> None:
        y = rng.integers(0, 2, 1000)
        columns = {
            "delay": np.where(y == 1, 1.0, -1.0) * rng.exponential(10, 1000),
            "code": np.where(y == 1, "late", "fine"),
            "noise": rng.normal(size=1000),
            "hint": y + rng.normal(size=1000),
            "y": np.where(y == 1, "yes", "no"),
        }
        assert self._told(look(columns)) == {"delay", "code"}

    def test_columns_that_tell_a_number_are_named(
        self, look: Look, rng: np.random.Generator
    ) -> None:
        group = rng.integers(0, 30, 1000)
        y = group * 10.0 + rng.normal(size=1000) * 0.1
        columns = {
            "double": 2 * y + 1,
            "curved": np.exp(y / 50),
            "group": [f"g{g}" for g in group],
            "noise": rng.normal(size=1000),
            "near": y + rng.normal(size=1000) * 20,
            "y": y,
        }
        assert self._told(look(columns)) == {"double", "curved", "group"}

    def test_imbalance_alone_is_no_giveaway(self, look: Look, rng: np.random.Generator) -> None:
        y = np.array(["a"] * 995 + ["b"] * 5)
        assert self._told(look({"x": rng.normal(size=1000), "y": y})) == set()

    def test_ignored_columns_are_not_looked_at(self, look: Look) -> None:
        columns = {"id": range(200), "x": [i % 7 for i in range(200)], "y": range(200)}
        assert self._told(look(columns, hint="y")) == set()
