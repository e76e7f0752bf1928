"""The work of one export: what a throw-away process is told, and what it may answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allotment_exporter.domain.exports import Measurement, ParityReport, Precision, Problem, Task

PARITY_TOLERANCE = 1e-6
"""Of |artefact - source| / max(1, |source|)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """What one build may use; beyond it the process ends and the export fails."""

    memory_bytes: int
    cpu_s: int
    wall_s: float
    measure_s: float
    """Time for measuring latency and throughput."""
    artefact_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMember:
    """A graph with its reference, and its share of the prediction."""

    graph: Path
    reference: Path
    weight: float = 1.0
    proven: bool = False
    """This graph was found equal to this reference before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """Make `artefact` from the members' graphs and prove that it predicts their weighted mean."""

    members: tuple[JobMember, ...]
    artefact: Path
    task: Task
    classes: tuple[str, ...]
    target: str
    limits: BuildLimits
    temperature: float = 1.0
    """Other than 1: probabilities become p^(1 / temperature), scaled to sum to 1."""
    tolerance: float = PARITY_TOLERANCE
    precision: Precision = Precision.EXACT
    """INT8: besides the artefact, a candidate in eight bits where there is anything to gain."""

    @property
    def candidate(self) -> Path:
        """Where the candidate is written."""
        return self.artefact.with_name("int8.onnx")

    @property
    def is_plain(self) -> bool:
        """One graph as it is."""
        return len(self.members) == 1 and self.temperature == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the answers of a candidate differ from the exact artefact's, on validation rows."""

    row_count: int
    labels_changed: float
    """Share of the rows; 0 in regression."""
    divergence: float = 0.0
    """Mean Kullback-Leibler divergence in nats: what the log loss rises by, were the exact
    probabilities right."""
    divergence_deviation: float = 0.0
    """Standard deviation over the rows."""
    loss_deviation: float = 0.0
    """Of a row's log loss, were the exact probabilities right."""
    distance: float = 0.0
    """Root mean square; regression alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Another form of the artefact, written and measured, to be judged."""

    precision: Precision
    artefact_sha256: str
    measurement: Measurement
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The artefact is there and passed the gate."""

    artefact_sha256: str
    signature: Mapping[str, object]
    ir_version: int
    opsets: Mapping[str, int]
    parity: ParityReport
    measurement: Measurement
    library_versions: Mapping[str, str]
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The graph ran and predicts something else; there is no artefact."""

    parity: ParityReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The graph or its reference could not be used."""

    problem: Problem


BuildOutcome = Built | Refused | Failed
