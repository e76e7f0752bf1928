"""Models: trials and ensembles that were better than all before, on their way through the export
gate.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from allotment_controller.domain.task import Metric, Problem
from allotment_core.names import ExperimentName, ModelName
from allotment_core.states import Moves


class ModelState(enum.Enum):
    EXPORTING = "EXPORTING"
    READY = "READY"
    REFUSED = "REFUSED"


MODEL_MOVES = Moves(
    {
        ModelState.EXPORTING: frozenset({ModelState.READY, ModelState.REFUSED}),
        ModelState.READY: frozenset(),
        ModelState.REFUSED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """What the exporter stored, by sha256."""

    artefact_sha256: str
    manifest_sha256: str
    size_bytes: int
    latency_ms: float = 0.0
    """Of one row, as the exporter measured it; 0: not known."""


@dataclass(frozen=True, slots=True)
class Member:
    """A trial in a model, by its number. Weights of a model's members sum to 1."""

    trial: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Probabilities p become p^(1 / temperature), scaled to sum to 1."""

    temperature: float
    ece_before: float
    ece_after: float
    """Expected calibration error on the rows of the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a model can be made of, and how good it is."""

    members: tuple[Member, ...]
    """The heaviest first."""
    score: float
    calibration: Calibration | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Empty: those of the only member."""

    @property
    def is_trial(self) -> bool:
        """One trial as it is."""
        return len(self.members) == 1 and self.calibration is None


@dataclass(slots=True)
class MixState:
    """What is known of an experiment's ensembles; nothing of it is stored."""

    active: bool = False
    least: int = 2
    """Of how many trials one is worth computing."""
    considered: int = 0
    """Of how many succeeded trials the newest one is."""
    recipe: Recipe | None = None
    """The best that no model was made of."""
    took_s: float = 0.0
    fresh: bool = False
    """Nothing was computed since a restart: what is there is looked at as a whole."""

    def note(
        self, count: int, recipe: Recipe | None, took_s: float, metric: Metric | None = None
    ) -> None:
        """What was found for the first `count` trials. A worse one replaces nothing."""
        self.considered, self.fresh = max(self.considered, count), False
        self.took_s = took_s or self.took_s
        if recipe is None or metric is None:
            return
        if self.recipe is None or metric.loss(recipe.score) < metric.loss(self.recipe.score):
            self.recipe = recipe


def next_mix(considered: int) -> int:
    """How many trials have to have succeeded for the next ensemble: rarer as they become many."""
    if considered < 50:
        return max(2, considered + 1)
    step = 10 if considered < 500 else 100
    return (considered // step + 1) * step


def mix_is_due(state: MixState, success_count: int, *, finishing: bool) -> bool:
    """Whether an ensemble of the trials that have succeeded is worth computing now."""
    if not state.active or success_count < state.least:
        return False
    news = success_count > state.considered
    return news and (finishing or state.fresh or success_count >= next_mix(state.considered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    experiment: ExperimentName
    number: int
    trial: int
    """The heaviest member."""
    score: float
    create_time: datetime
    state: ModelState = ModelState.EXPORTING
    export: str = ""
    artefact: Artefact | None = None
    problem: Problem | None = None
    ready_time: datetime | None = None
    members: tuple[Member, ...] = ()
    """Empty: the one trial alone."""
    calibration: Calibration | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Empty: the trial's."""
    revision: int = 0

    @property
    def name(self) -> ModelName:
        return ModelName(self.experiment, str(self.number))

    @property
    def parts(self) -> tuple[Member, ...]:
        """The members, also where there is one."""
        return self.members or (Member(self.trial),)

    @property
    def is_trial(self) -> bool:
        """One trial as it is."""
        return len(self.parts) == 1 and self.calibration is None

    @property
    def export_s(self) -> float | None:
        """How long its way through the export gate took; None before it is READY."""
        if self.ready_time is None:
            return None
        return (self.ready_time - self.create_time).total_seconds()

    def is_made_of(self, recipe: Recipe) -> bool:
        return self.parts == recipe.members and self.calibration == recipe.calibration

    def _to(self, state: ModelState) -> "Model":
        MODEL_MOVES.check(self.state, state, what=str(self.name))
        return replace(self, state=state)

    def ready(self, artefact: Artefact, now: datetime) -> "Model":
        return replace(self._to(ModelState.READY), artefact=artefact, ready_time=now)

    def refused(self, problem: Problem) -> "Model":
        return replace(self._to(ModelState.REFUSED), problem=problem)
