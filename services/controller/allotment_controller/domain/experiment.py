"""Experiments: what was asked for, what it means, and where the search stands."""

import enum
from dataclasses import dataclass, field, replace
from datetime import datetime

from allotment_controller.domain.task import Metric, Notice, Problem, Split, TaskType, Wait
from allotment_core.names import ExperimentName, VersionName
from allotment_core.states import Moves
from allotment_search import Derivation, TaskShape, Traits
from allotment_search.halving import Audit


class ExperimentState(enum.Enum):
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    FINISHING = "FINISHING"
    SUCCEEDED = "SUCCEEDED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


EXPERIMENT_MOVES = Moves(
    {
        ExperimentState.RUNNING: frozenset(
            {ExperimentState.PAUSED, ExperimentState.FINISHING, ExperimentState.FAILED}
        ),
        ExperimentState.PAUSED: frozenset({ExperimentState.RUNNING, ExperimentState.FINISHING}),
        ExperimentState.FINISHING: frozenset(
            {ExperimentState.SUCCEEDED, ExperimentState.CANCELLED, ExperimentState.FAILED}
        ),
        ExperimentState.SUCCEEDED: frozenset({ExperimentState.RUNNING}),
        ExperimentState.CANCELLED: frozenset({ExperimentState.RUNNING}),
        ExperimentState.FAILED: frozenset({ExperimentState.RUNNING}),
    }
)
ENDED = frozenset({ExperimentState.SUCCEEDED, ExperimentState.CANCELLED, ExperimentState.FAILED})
"""Nothing happens to it by itself any more; with a new budget it goes on."""


class BudgetStart(enum.Enum):
    """From when a wall time counts."""

    CREATED = "created"
    """From the call that gave it."""
    GRANTED = "granted"
    """From the first lease that the experiment holds after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent: wall time, trials, or both."""

    wall_time_s: float | None = None
    started_before_s: float = 0.0
    """How much of the wall time had passed when the experiment was created; 0 where it counts from
    the first lease."""
    trial_count: int = 0
    """0: no limit."""
    queue_timeout_s: float | None = None
    """How long the experiment may wait for its first lease; None: as long as that takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSpec:
    """As asked for, with everything inferred filled in."""

    dataset_version: VersionName
    target: str
    task: TaskType
    metric: Metric
    budget: Budget
    max_parallel_trials: int = 0
    """0: as many as the pool has slots."""
    seed: int = 0
    ignored_columns: tuple[str, ...] = ()
    weight_column: str = ""
    group_column: str = ""
    time_column: str = ""
    families: tuple[str, ...] = ()
    """Empty: all that trainers offer."""
    without_early_stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """Which model is made anew, and of what."""

    model: str
    trials: tuple[int, ...]
    """Numbers of the trials that are trained again: their seeds follow from them."""
    derivations: tuple[Derivation, ...]
    weights: tuple[float, ...]
    temperature: float | None = None
    """None: the probabilities stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an experiment works by. Its budget and deadline may change, the rest never does."""

    spec: ExperimentSpec
    classes: tuple[str, ...]
    feature_columns: tuple[str, ...]
    shape: TaskShape
    split: Split
    warnings: tuple[Notice, ...]
    table: bytes
    """The dataset version's table for trainers, as the dataset service described it."""
    create_time: datetime
    deadline: datetime | None
    """None: there is no limit in time, or it does not count yet."""
    resume_time: datetime | None = None
    """When it was last given a new budget."""
    budget_start: BudgetStart = BudgetStart.CREATED
    grant_time: datetime | None = None
    """When it first held a lease for its budget; None too where nothing depends on that."""
    queue_deadline: datetime | None = None
    """Until when it waits for that lease."""
    refit: Refit | None = None
    """None: a search."""
    traits: Traits | None = None
    """What it is compared with other tasks by; None: it was planned before there were any."""
    portfolio_order: tuple[str, ...] = ()
    """Keys of the learnt portfolio in the order of play; empty: as shipped."""

    @property
    def given_time(self) -> datetime:
        """When its budget was given."""
        return self.resume_time or self.create_time

    @property
    def start_time(self) -> datetime | None:
        """What its budget counts from; None: a lease that it waits for."""
        return self.given_time if self.budget_start is BudgetStart.CREATED else self.grant_time

    @property
    def begin_time(self) -> datetime:
        """What the time until the deadline counts from."""
        return self.start_time or self.given_time

    @property
    def waits_for_grant(self) -> bool:
        """Whether something depends on its first lease, which it has not had yet."""
        limited = self.spec.budget.queue_timeout_s is not None
        return self.grant_time is None and (limited or self.start_time is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as of a revision."""

    name: ExperimentName
    plan: Plan
    state: ExperimentState = ExperimentState.RUNNING
    ends_as: ExperimentState = ExperimentState.SUCCEEDED
    """What FINISHING leads to when a model is there."""
    finish_by: datetime | None = None
    """FINISHING alone: when it ends with what is there."""
    best_model: int = 0
    best_score: float | None = None
    finished_trial_count: int = 0
    running_trial_count: int = 0
    early_stopping: Audit = field(default_factory=Audit)
    problem: Problem | None = None
    wait: Wait | None = None
    end_time: datetime | None = None
    revision: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to(self, state: ExperimentState) -> "Experiment":
        """The experiment in another state. Raises: FailedPrecondition when it can't move there."""
        EXPERIMENT_MOVES.check(self.state, state, what=str(self.name))
        return replace(self, state=state)
