"""What trainers and the controller say to each other in a session."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from allotment_controller.domain.experiment import Plan
from allotment_controller.domain.task import Problem
from allotment_controller.domain.trial import AttemptCause, Trial, TrialResult
from allotment_core.names import ExperimentName, LeaseName, TrialName
from allotment_search.halving import Amount


@dataclass(frozen=True, slots=True)
class ReportKey:
    """What a report is about, and which one it is: they count from 1 for each (trial, epoch)."""

    trial: TrialName
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class RunningTrial:
    trial: TrialName
    epoch: int


@dataclass(frozen=True, slots=True)
class OfferedFamily:
    family: str
    unavailable: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    lease: LeaseName
    lease_epoch: int
    families: tuple[OfferedFamily, ...]
    library_versions: Mapping[str, str]
    threads: int
    memory_bytes: int
    running: tuple[RunningTrial, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    running: tuple[RunningTrial, ...]


@dataclass(frozen=True, slots=True)
class Started:
    key: ReportKey


@dataclass(frozen=True, slots=True)
class Progress:
    key: ReportKey
    finished_folds: int
    fold_count: int
    score: float | None
    fit_rung: int = 0
    """Within the first fold: one n-th of its fit is done."""


@dataclass(frozen=True, slots=True)
class Result:
    key: ReportKey
    result: TrialResult


@dataclass(frozen=True, slots=True)
class Failure:
    key: ReportKey
    cause: AttemptCause
    problem: Problem | None
    log_tail: str
    checkpoint_sha256: str = ""
    """Fitted folds to go on from; empty: none."""
    checkpoint_folds: int = 0
    checkpoint_steps: int = 0


Report = Started | Progress | Result | Failure


@dataclass(frozen=True, slots=True)
class Assign:
    """Train this. ``deadline``: fitting is ended at this instant. ``rungs``: where the trial may be
    put off."""

    plan: Plan
    trial: Trial
    deadline: datetime
    rungs: tuple[Amount, ...] = ()


@dataclass(frozen=True, slots=True)
class Acknowledge:
    key: ReportKey


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave off. ``reason``: CANCELLED, PAUSED, DEADLINE, NO_POTENTIAL."""

    trial: TrialName
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Revoke:
    """The lease ends. ``reason``: RELEASED, PREEMPTED, EXPIRED."""

    reason: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Alive:
    """The answer to a heartbeat."""


Order = Assign | Acknowledge | Stop | Revoke | Alive


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease as the allocator last showed it. ``state`` is one of its states' names."""

    name: LeaseName
    holder: ExperimentName
    state: str
    epoch: int
    wait_reason: str = ""
    wait_message: str = ""
    wait_position: int = 0
    problem: Problem | None = None
    trainer_end: str = ""
    """Why the trainer of the epoch before ended, where the allocator knows."""
    grant_time: datetime | None = None
    """When its epoch was granted, by the allocator's clock."""

    @property
    def is_live(self) -> bool:
        return self.state in ("QUEUED", "HELD")

    @property
    def has_ended(self) -> bool:
        return self.state in ("RELEASED", "EXPIRED")
