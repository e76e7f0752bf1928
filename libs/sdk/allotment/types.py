"""What the client returns: frozen values. Times are aware datetimes in UTC, enums are lower-case
strings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from allotment.enums import AttemptCause as AttemptCause
from allotment.enums import BudgetStart as BudgetStart
from allotment.enums import ColumnRole as ColumnRole
from allotment.enums import ColumnType as ColumnType
from allotment.enums import ExperimentState as ExperimentState
from allotment.enums import ExportState as ExportState
from allotment.enums import Isolation as Isolation
from allotment.enums import LeaseState as LeaseState
from allotment.enums import Metric as Metric
from allotment.enums import ModelState as ModelState
from allotment.enums import NodeState as NodeState
from allotment.enums import Role as Role
from allotment.enums import TaskType as TaskType
from allotment.enums import TrialState as TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why something failed or was refused."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning:
    """Something that the user should know although nothing failed. `column` is "" for the whole
    table.
    """

    reason: str
    message: str
    column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why something waits and what would end it; `position` counts from 1, 0 is not queued."""

    reason: str
    message: str
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: ColumnType
    role: ColumnRole
    ignored_because: str
    missing_count: int
    distinct_count: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    top_values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    name: str
    latest_version: str
    version_count: int
    create_time: datetime
    update_time: datetime
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """Immutable rows. `part_sha256` are the blobs of its Parquet files, in row order."""

    name: str
    row_count: int
    columns: tuple[Column, ...]
    warnings: tuple[Warning, ...]
    format: str
    encoding: str
    delimiter: str
    size_bytes: int
    duplicate_row_count: int
    source_sha256: str
    part_sha256: tuple[str, ...]
    create_time: datetime

    @property
    def dataset(self) -> str:
        return self.name.rsplit("/", 2)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    """A version looked at with one column as its target. `classes` are (label, rows) in output
    order.
    """

    task: TaskType
    labelled_row_count: int
    classes: tuple[tuple[str, int], ...]
    warnings: tuple[Warning, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """What was put off, and what trials that were spared by lot say about it."""

    paused_trials: int
    """Put off now, or when the search ended."""
    audits: int
    """Would have been put off and ran to their end all the same."""
    improved_audits: int
    """Those of them that were better than every trial before them."""

    @property
    def expected_misses(self) -> float:
        """Improvements that were lost with what is put off, as the audits let expect."""
        return self.paused_trials * self.improved_audits / self.audits if self.audits else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    name: str
    state: ExperimentState
    dataset_version: str
    target: str
    task: TaskType
    metric: Metric
    seed: int
    classes: tuple[str, ...]
    deadline: datetime | None
    trial_budget: int
    """0: no limit."""
    best_model: str
    best_score: float | None
    finished_trial_count: int
    running_trial_count: int
    warnings: tuple[Warning, ...]
    problem: Problem | None
    wait: Wait | None
    create_time: datetime
    end_time: datetime | None
    etag: str
    revision: int
    early_stopping: EarlyStopping
    refit_of: str
    """The model that it makes anew; empty: a search."""
    budget_start: BudgetStart = BudgetStart.CREATED
    start_time: datetime | None = None
    """From when its budget counts; None: it still waits for its first lease."""
    queue_deadline: datetime | None = None
    """Until when it waits for that lease."""

    @property
    def is_queued(self) -> bool:
        """It waits for its first lease, and its budget does not count yet."""
        return self.start_time is None and self.state is ExperimentState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`attempts` counts every start; `attempts_by_cause` those that ended without a result."""

    name: str
    state: TrialState
    family: str
    origin: str
    score: float | None
    metrics: Mapping[str, float]
    fit_s: float
    attempts: int
    attempts_by_cause: Mapping[str, int]
    epoch: int
    finished_folds: int
    fold_count: int
    derivation: Mapping[str, str | float | int | bool]
    problem: Problem | None
    log_tail: str
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None

    @property
    def id(self) -> str:
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A trial in a model. The weights of a model's members sum to 1."""

    trial: str
    weight: float
    family: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The model's probabilities are p^(1 / temperature), scaled to sum to 1."""

    temperature: float
    ece_before: float
    ece_after: float
    """Expected calibration error on the rows of the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    state: ModelState
    family: str
    task: TaskType
    metric: Metric
    score: float
    metrics: Mapping[str, float]
    classes: tuple[str, ...]
    trials: tuple[str, ...]
    export: str
    artefact_sha256: str
    manifest_sha256: str
    artefact_size_bytes: int
    problem: Problem | None
    create_time: datetime
    ready_time: datetime | None
    members: tuple[Member, ...] = ()
    """The heaviest first; one where the model is a single trial."""
    calibration: Calibration | None = None

    @property
    def is_trial(self) -> bool:
        """One trial as it is."""
        return len(self.trials) == 1 and self.calibration is None


@dataclass(frozen=True, slots=True, kw_only=True)
class OffendingRow:
    row: int
    kind: str
    cells: Mapping[str, str]
    expected: tuple[float, ...]
    actual: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    row_count: int
    offending_row_count: int
    worst_difference: float
    tolerance: float
    offending_rows: tuple[OffendingRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    name: str
    state: ExportState
    progress: float
    stage: str
    model: str
    problem: Problem | None
    parity: Parity | None
    size_bytes: int
    latency_p50_ms: float
    latency_p95_ms: float
    rows_per_s: float
    artefact_sha256: str
    manifest_sha256: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    name: str
    title: str
    tasks: tuple[TaskType, ...]
    available: bool
    unavailable: Problem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    name: str
    kind: str
    slot_count: int
    used_slot_count: int
    threads_per_slot: int
    memory_bytes_per_slot: int
    resource: str = "cpu"
    """What a slot is: `cpu`, `gpu`, or a slice of one as `mig-1g.10gb`."""
    product: str = ""
    """Of the device."""
    node_count: int = 1
    open_node_count: int = 1
    """Nodes that take new leases."""
    expected_slot_count: int = 0
    """More slots, of nodes that an autoscaler brings when leases need them."""
    price_per_slot_hour: float = 0.0
    """0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine as part of a pool."""

    name: str
    """pools/*/nodes/*"""
    pool: str
    state: NodeState
    slot_count: int
    used_slot_count: int
    free_slot_count: int
    """Those that a new lease can have."""
    resource: str
    product: str
    price_per_slot_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    name: str
    weight: float
    guaranteed_slots: int
    quota_slots: int
    """0: no limit."""
    isolation: Isolation
    """DEDICATED: it has each node alone and is charged for all of it."""
    shares_experience: bool
    """It consents to others' learning from its tasks, and learns from those of others who do."""
    create_time: datetime
    update_time: datetime
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    token: str
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    name: str
    state: LeaseState
    epoch: int
    holder: str
    pool: str
    slot_count: int
    expire_time: datetime | None
    wait: Wait | None
    problem: Problem | None
    create_time: datetime
    grant_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Slots x seconds held by a tenant, or by one of its experiments."""

    name: str
    slot_seconds: float
    lease_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a long call is: `stage` is upload, queued, parse, profile, store, ...; `fraction` is
    0 to 1.
    """

    stage: str
    fraction: float
    message: str = ""


Change = Experiment | Trial | Model
"""What `watch` yields."""
