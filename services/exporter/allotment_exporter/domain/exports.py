"""The export operation: its states, what it proves, what it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from allotment_core.errors import FailedPrecondition
from allotment_core.names import ExportName
from allotment_core.states import Moves

MAX_RESTARTS = 5
"""An export that was running when its server died this often is not tried again."""


class ExportState(Enum):
    """Where an export stands; the names are those of the wire."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


MOVES = Moves(
    {
        ExportState.PENDING: frozenset({ExportState.RUNNING, ExportState.CANCELLED}),
        ExportState.RUNNING: frozenset(
            {
                ExportState.PENDING,
                ExportState.SUCCEEDED,
                ExportState.REFUSED,
                ExportState.FAILED,
                ExportState.CANCELLED,
            }
        ),
        ExportState.SUCCEEDED: frozenset(),
        ExportState.REFUSED: frozenset(),
        ExportState.FAILED: frozenset(),
        ExportState.CANCELLED: frozenset(),
    }
)
"""The legal moves; the comments in exporter.proto list the same."""


class Stage(Enum):
    """What is being done; the value is the progress at its begin."""

    QUEUED = 0.0
    FETCH = 0.05
    BUILD = 0.2
    PARITY = 0.4
    MEASURE = 0.7
    STORE = 0.85
    DONE = 1.0


class Task(Enum):
    """What the model predicts."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Precision(Enum):
    """How exactly the artefact has to predict; the names are those of the wire."""

    EXACT = "EXACT"
    INT8 = "INT8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an export was refused or failed: a stable reason, and a text that says what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OffendingRow:
    """A row of the reference that the artefact predicts differently."""

    row: int
    kind: str
    cells: Mapping[str, str]
    expected: tuple[float, ...]
    actual: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How the artefact compares with its source, row by row."""

    row_count: int
    offending_row_count: int
    worst_difference: float
    """Largest |artefact - source| / max(1, |source|)."""
    tolerance: float
    offending_rows: tuple[OffendingRow, ...] = ()
    """At most ten, the worst first."""
    rows_by_kind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the artefact costs: its bytes, and its time on one thread."""

    size_bytes: int
    latency_p50_ms: float
    latency_p95_ms: float
    rows_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A trial whose predictions a model averages with those of others."""

    trial: str
    weight: float
    """Above 0; those of a model sum to 1."""
    family: str
    graph_sha256: str
    reference_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Probabilities p become p^(1 / temperature), scaled to sum to 1."""

    temperature: float
    ece_before: float
    ece_after: float
    """Expected calibration error on the rows of the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What the export is made from, as the model's own resource says it."""

    model: str
    graph_sha256: str
    reference_sha256: str
    task: Task
    classes: tuple[str, ...]
    target: str
    metric: str
    score: float
    metrics: Mapping[str, float]
    dataset_version: str
    trials: tuple[str, ...]
    family: str
    library_versions: Mapping[str, str]
    validation_row_count: int
    seed: int
    members: tuple[Member, ...] = ()
    """The heaviest first; empty: the one graph above."""
    calibration: Calibration | None = None
    precision: Precision = Precision.EXACT
    """What was asked of the artefact."""

    @property
    def parts(self) -> tuple[Member, ...]:
        """The members, also where there is only the one graph."""
        if self.members:
            return self.members
        alone = Member(
            trial=self.trials[0] if self.trials else "",
            weight=1.0,
            family=self.family,
            graph_sha256=self.graph_sha256,
            reference_sha256=self.reference_sha256,
        )
        return (alone,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One export: made PENDING, and only ever changed by its moves."""

    name: ExportName
    state: ExportState
    stage: Stage
    source: ModelSource
    create_time: datetime
    update_time: datetime
    start_count: int = 0
    problem: Problem | None = None
    parity: ParityReport | None = None
    measurement: Measurement | None = None
    artefact_sha256: str = ""
    manifest_sha256: str = ""

    @classmethod
    def queued(cls, name: ExportName, source: ModelSource, now: datetime) -> "Export":
        """A new export."""
        return cls(
            name=name,
            state=ExportState.PENDING,
            stage=Stage.QUEUED,
            source=source,
            create_time=now,
            update_time=now,
        )

    @property
    def ended(self) -> bool:
        """No more moves."""
        return self.state in MOVES.final

    @property
    def progress(self) -> float:
        """0 to 1."""
        return self.stage.value

    def _to(self, state: ExportState, now: datetime) -> "Export":
        MOVES.check(self.state, state)
        return replace(self, state=state, update_time=now)

    def started(self, now: datetime) -> "Export":
        """It is being worked on."""
        return replace(
            self._to(ExportState.RUNNING, now), stage=Stage.FETCH, start_count=self.start_count + 1
        )

    def reached(self, stage: Stage, now: datetime) -> "Export":
        """The same export, further on."""
        return replace(self, stage=stage, update_time=now)

    def interrupted(self, now: datetime) -> "Export":
        """Its server died: back to the queue, or FAILED when that happened MAX_RESTARTS times."""
        if self.start_count >= MAX_RESTARTS:
            return self.failed(
                Problem(
                    reason="TOO_MANY_RESTARTS",
                    message=f"the server stopped {self.start_count} times during this export, "
                    f"the limit is {MAX_RESTARTS}; look at the server's log, then export again",
                ),
                now,
            )
        return replace(self._to(ExportState.PENDING, now), stage=Stage.QUEUED)

    def succeeded(
        self,
        *,
        parity: ParityReport,
        measurement: Measurement,
        artefact_sha256: str,
        manifest_sha256: str,
        now: datetime,
    ) -> "Export":
        """Artefact and manifest are stored."""
        return replace(
            self._to(ExportState.SUCCEEDED, now),
            stage=Stage.DONE,
            parity=parity,
            measurement=measurement,
            artefact_sha256=artefact_sha256,
            manifest_sha256=manifest_sha256,
        )

    def refused(self, parity: ParityReport, now: datetime) -> "Export":
        """The graph does not predict what its source predicted."""
        problem = Problem(
            reason="PARITY",
            message=f"{parity.offending_row_count} of {parity.row_count} reference rows differ "
            "from what the model predicted in training; the worst by "
            f"{parity.worst_difference:.3g}, the tolerance is {parity.tolerance:.3g}; "
            "no artefact was made, offending_rows names some",
        )
        return replace(
            self._to(ExportState.REFUSED, now), stage=Stage.PARITY, parity=parity, problem=problem
        )

    def failed(self, problem: Problem, now: datetime) -> "Export":
        """It could not be carried out; the stage says where it ended."""
        return replace(self._to(ExportState.FAILED, now), problem=problem)

    def cancelled(self, now: datetime) -> "Export":
        """As asked for; one that is cancelled stays so."""
        if self.state is ExportState.CANCELLED:
            return self
        if self.ended:
            raise FailedPrecondition(
                f"export '{self.name}' has ended as {self.state.value} and can't be cancelled; "
                "delete it to let go of its artefact",
                reason="EXPORT_ENDED",
            )
        return self._to(ExportState.CANCELLED, now)

    def check_deletable(self) -> None:
        """Raises FailedPrecondition while the export goes on."""
        if not self.ended:
            raise FailedPrecondition(
                f"export '{self.name}' is {self.state.value}; cancel it before you delete it",
                reason="EXPORT_NOT_ENDED",
            )
