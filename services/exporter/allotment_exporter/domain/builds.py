"""The work of one export: what a throw-away process is told, and what it may answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allotment_exporter.domain.exports import Measurement, ParityReport, Problem, Task

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
class BuildJob:
    """Make `artefact` from `graph` and prove that it predicts what `reference` says."""

    graph: Path
    reference: Path
    artefact: Path
    task: Task
    classes: tuple[str, ...]
    target: str
    limits: BuildLimits
    tolerance: float = PARITY_TOLERANCE


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The graph ran and predicts something else; there is no artefact."""

    parity: ParityReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The graph or its reference could not be used."""

    problem: Problem


BuildOutcome = Built | Refused | Failed
