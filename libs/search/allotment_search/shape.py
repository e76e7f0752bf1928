"""What the search space needs to know of a task: counts alone, never a cell of its data."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShape:
    """Sizes of a task. ``fit_count`` is how often a trial fits: its folds, or 1 for a hold-out."""

    task: Task
    row_count: int
    numeric_count: int
    category_count: int = 0
    date_count: int = 0
    class_count: int = 0
    fit_count: int = 5
    target_minimum: float | None = None
    """Regression alone; None: unknown."""
    text_count: int = 0

    def count_of(self, kind: str) -> int:
        """Columns of a kind: numeric, category, date or text."""
        counts = {
            "numeric": self.numeric_count,
            "category": self.category_count,
            "date": self.date_count,
            "text": self.text_count,
        }
        return counts[kind]

    @property
    def feature_count(self) -> int:
        """Columns but texts: what those become depends on the pipeline."""
        return max(1, self.numeric_count + self.category_count + self.date_count)

    @property
    def training_row_count(self) -> int:
        """Rows of one fit."""
        share = (self.fit_count - 1) / self.fit_count if self.fit_count > 1 else 0.8
        return max(1, int(self.row_count * share))

    @property
    def output_count(self) -> int:
        """Trees that a boosting round grows: one for each class when there are more than two."""
        return self.class_count if self.task == "multiclass" else 1
