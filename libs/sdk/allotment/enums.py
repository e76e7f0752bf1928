"""The words in what the client returns and takes: lower-case strings."""

import enum


class Word(enum.StrEnum):
    """A member that a newer server knows and this client doesn't is read as UNSPECIFIED."""

    @classmethod
    def _missing_(cls, value: object) -> "Word | None":
        return cls.__members__.get("UNSPECIFIED")


class ColumnType(Word):
    UNSPECIFIED = "unspecified"
    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    DATE = "date"
    TEXT = "text"
    ID = "id"


class ColumnRole(Word):
    UNSPECIFIED = "unspecified"
    FEATURE = "feature"
    IGNORED = "ignored"
    WEIGHT = "weight"
    GROUP = "group"
    TIME = "time"


class TaskType(Word):
    UNSPECIFIED = "unspecified"
    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Isolation(Word):
    """Whether a tenant's trainers share nodes with those of others."""

    UNSPECIFIED = "unspecified"
    SHARED = "shared"
    DEDICATED = "dedicated"


class Metric(Word):
    UNSPECIFIED = "unspecified"
    LOG_LOSS = "log_loss"
    AUC = "auc"
    AP = "ap"
    ACCURACY = "accuracy"
    F1 = "f1"
    RMSE = "rmse"
    MAE = "mae"
    R2 = "r2"

    @property
    def lower_is_better(self) -> bool:
        return self in (Metric.LOG_LOSS, Metric.RMSE, Metric.MAE)


class BudgetStart(Word):
    """From when a wall time counts: from the call that gave it, or from the first lease."""

    UNSPECIFIED = "unspecified"
    CREATED = "created"
    GRANTED = "granted"


class ExperimentState(Word):
    UNSPECIFIED = "unspecified"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (
            ExperimentState.SUCCEEDED,
            ExperimentState.CANCELLED,
            ExperimentState.FAILED,
        )


class TrialState(Word):
    UNSPECIFIED = "unspecified"
    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


class AttemptCause(Word):
    UNSPECIFIED = "unspecified"
    PREEMPTED = "preempted"
    LOST = "lost"
    PAUSED = "paused"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    REFUSED = "refused"


class ModelState(Word):
    UNSPECIFIED = "unspecified"
    EXPORTING = "exporting"
    READY = "ready"
    REFUSED = "refused"


class NodeState(Word):
    UNSPECIFIED = "unspecified"
    OPEN = "open"
    CORDONED = "cordoned"
    AWAY = "away"
    LOST = "lost"
    EXPECTED = "expected"


class ExportState(Word):
    UNSPECIFIED = "unspecified"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (ExportState.UNSPECIFIED, ExportState.PENDING, ExportState.RUNNING)


class LeaseState(Word):
    UNSPECIFIED = "unspecified"
    QUEUED = "queued"
    HELD = "held"
    REVOKING = "revoking"
    RELEASED = "released"
    EXPIRED = "expired"


class Role(Word):
    UNSPECIFIED = "unspecified"
    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"
