"""Models: trials that were better than all before, on their way through the export gate."""

import enum
from dataclasses import dataclass, replace
from datetime import datetime

from allotment_controller.domain.task import Problem
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    experiment: ExperimentName
    number: int
    trial: int
    score: float
    create_time: datetime
    state: ModelState = ModelState.EXPORTING
    export: str = ""
    artefact: Artefact | None = None
    problem: Problem | None = None
    ready_time: datetime | None = None
    revision: int = 0

    @property
    def name(self) -> ModelName:
        return ModelName(self.experiment, str(self.number))

    def _to(self, state: ModelState) -> "Model":
        MODEL_MOVES.check(self.state, state, what=str(self.name))
        return replace(self, state=state)

    def ready(self, artefact: Artefact, now: datetime) -> "Model":
        return replace(self._to(ModelState.READY), artefact=artefact, ready_time=now)

    def refused(self, problem: Problem) -> "Model":
        return replace(self._to(ModelState.REFUSED), problem=problem)
