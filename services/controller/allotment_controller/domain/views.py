"""What readers see of experiments, and where they see it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from allotment_controller.domain.experiment import Experiment
from allotment_controller.domain.messages import OfferedFamily
from allotment_controller.domain.model import Model
from allotment_controller.domain.trial import Trial
from allotment_core.etags import etag_of
from allotment_core.names import ExperimentName, TenantName


def etag(experiment: Experiment) -> str:
    """Changes with everything that happens to the experiment."""
    return etag_of(f"{experiment.name}@{experiment.revision}".encode())


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model with the trials that it was made of, in the order of its members."""

    model: Model
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed after a revision: the experiment as it is now, and rows by their revision."""

    experiment: Experiment
    parts: tuple[Trial | ModelView, ...]


class Reader(Protocol):
    """Everything that was committed. Names that don't exist raise NotFound; pages have cursors."""

    async def experiment(self, name: ExperimentName) -> Experiment: ...

    async def experiments(
        self, tenant: TenantName, after: str, limit: int
    ) -> tuple[list[Experiment], str]:
        """A page in order of creation, and the cursor of the next one."""
        ...

    async def trial(self, name: ExperimentName, number: int) -> Trial | None: ...

    async def trials(
        self, name: ExperimentName, after: str, limit: int
    ) -> tuple[list[Trial], str]: ...

    async def model(
        self, name: ExperimentName, number: int | None
    ) -> tuple[Experiment, ModelView | None]:
        """The model of this number; None: the best one that is ready."""
        ...

    async def models(
        self, name: ExperimentName, after: str, limit: int
    ) -> tuple[Experiment, list[ModelView], str]: ...

    async def changed(self, name: ExperimentName, after_revision: int) -> Changed: ...

    async def offered(self) -> list[OfferedFamily]: ...


class Listener(Protocol):
    async def wait(self) -> None:
        """Returns after an announcement since the last wait, or after a while."""
        ...


class Announcer(Protocol):
    """Tells of changes in this process."""

    def listen(self, name: ExperimentName) -> AbstractContextManager[Listener]: ...
