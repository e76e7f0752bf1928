"""What is learnt and how it is scored, and the small values that resources share."""

import enum
from dataclasses import dataclass


class TaskType(enum.Enum):
    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


_CLASSIFICATION = frozenset({TaskType.BINARY, TaskType.MULTICLASS})
_REGRESSION = frozenset({TaskType.REGRESSION})


class Metric(enum.Enum):
    """What models are compared by; the values are the names that people use."""

    LOG_LOSS = "log_loss"
    AUC = "auc"
    AP = "ap"
    ACCURACY = "accuracy"
    F1 = "f1"
    RMSE = "rmse"
    MAE = "mae"
    R2 = "r2"

    @property
    def tasks(self) -> frozenset[TaskType]:
        return _REGRESSION if self in _OF_NUMBERS else _CLASSIFICATION

    def loss(self, score: float) -> float:
        """The score turned so that lower is better."""
        return score if self in _LOWER_IS_BETTER else -score

    @staticmethod
    def default(task: TaskType) -> "Metric":
        return Metric.RMSE if task is TaskType.REGRESSION else Metric.LOG_LOSS


_OF_NUMBERS = frozenset({Metric.RMSE, Metric.MAE, Metric.R2})
_LOWER_IS_BETTER = frozenset({Metric.LOG_LOSS, Metric.RMSE, Metric.MAE})


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something failed or was refused."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know although nothing failed."""

    reason: str
    message: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why something waits, and what would end the wait."""

    reason: str
    message: str
    position: int = 0


class SplitMethod(enum.Enum):
    FOLDS = "folds"
    HOLD_OUT = "hold_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How rows are divided into training and validation, in all trials of an experiment."""

    method: SplitMethod
    part_count: int
    seed: int
    group_column: str = ""
    time_column: str = ""

    @property
    def fit_count(self) -> int:
        return self.part_count if self.method is SplitMethod.FOLDS else 1
