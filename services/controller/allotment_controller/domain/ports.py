"""What the domain needs from outside."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from allotment_controller.domain.experiment import Experiment
from allotment_controller.domain.ledger import Change, Ledger
from allotment_controller.domain.messages import LeaseView, OfferedFamily
from allotment_controller.domain.model import Artefact
from allotment_controller.domain.prepared import Question
from allotment_controller.domain.task import Notice, Problem, TaskType
from allotment_controller.domain.views import ModelView
from allotment_core.names import (
    ExperimentName,
    LeaseName,
    ModelName,
    TenantName,
    TrialName,
    VersionName,
)
from allotment_search import Experience, Proposal

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnView:
    """A column of a dataset version. ``type``: numeric, categorical, date, text or id."""

    name: str
    type: str
    ignored: bool
    role: str = "feature"
    minimum: float | None = None
    missing_count: int = 0
    distinct_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A dataset version. ``table`` is its description for trainers, opaque to the domain."""

    version: VersionName
    row_count: int
    columns: tuple[ColumnView, ...]
    warnings: tuple[Notice, ...]
    table: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetView:
    """A column looked at as the target."""

    task: TaskType
    labelled_row_count: int
    classes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    rarest_share: float = 0.0
    """Of the labelled rows, those of the rarest class; 0 in a regression."""


class Datasets(Protocol):
    """The dataset service."""

    async def version(self, name: VersionName) -> TableView:
        """Raises: NotFound."""
        ...

    async def inspect(self, name: VersionName, target: str, task: TaskType | None) -> TargetView:
        """Raises: InvalidArgument when the column can't be learnt."""
        ...

    async def hold(self, owner: ModelName, sha256s: Sequence[str]) -> None:
        """Lets a model hold blobs. Raises: NotFound when one is gone."""
        ...

    async def release(self, owner: ExperimentName) -> None:
        """Ends all holds of an experiment's trials and models."""
        ...

    async def read(self, tenant: TenantName, sha256: str, limit_bytes: int) -> bytes:
        """A blob. Raises: NotFound, DataLoss, OutOfRange when it is larger."""
        ...

    async def size_bytes(self, tenant: TenantName, sha256: str) -> int:
        """Of a blob. Raises: NotFound."""
        ...

    async def release_checkpoints(self, trial: TrialName) -> None:
        """Ends a trial's hold of its fitted folds."""
        ...


class Leases(Protocol):
    """The allocator."""

    async def create(self, holder: ExperimentName, request_id: str) -> LeaseView: ...

    async def renew(self, leases: Sequence[LeaseView]) -> list[LeaseView | None]:
        """Extends leases. One answer for each, in order: as it is now; None: there is none."""
        ...

    async def release(self, lease: LeaseName, epoch: int) -> LeaseView | None: ...

    async def slot_count(self) -> int:
        """Slots of all pools."""
        ...

    def watch(self) -> AsyncIterator[LeaseView | None]:
        """Every lease that has not ended, None once, then every change; ends with an error."""
        ...


class Exports(Protocol):
    """The exporter."""

    async def create(self, experiment: Experiment, view: ModelView) -> str:
        """The name of the model's export. Repeating it gives the same one."""
        ...

    async def outcome(self, export: str) -> Artefact | Problem:
        """Waits for an export's end. A problem: it was refused, or failed."""
        ...

    async def cancel(self, export: str) -> None: ...

    async def delete(self, export: str) -> None: ...


class Store(Protocol):
    """The rows. What was committed is durable."""

    async def commit(self, change: Change) -> None:
        """Writes a change. Raises: Aborted when the store is not at its base revision."""
        ...

    async def answer(self, change: Change | None, to_response: Callable[[], R]) -> tuple[R, bool]:
        """Like `commit`, with the answer of the call that is being served.

        The answer, and whether the change was written now: a repeated call gets its first answer.
        """
        ...

    async def load(self, name: ExperimentName) -> Ledger:
        """Raises: NotFound."""
        ...

    async def load_open(self) -> list[Ledger]:
        """Every experiment that has not ended."""
        ...

    async def offer(self, families: Sequence[OfferedFamily]) -> None:
        """Keeps what a trainer offered last."""
        ...

    async def offered(self) -> list[OfferedFamily]: ...


class Sampling(Protocol):
    """Where proposals are computed, beside everything else."""

    def warm_up(self) -> None:
        """Proposals will be asked for soon."""
        ...

    async def proposals(self, experiment: str, question: Question) -> list[Proposal]:
        """A pure function of the question; empty when nothing new is left."""
        ...


class Consents(Protocol):
    """What tenants consent to."""

    async def shares_experience(self, tenant: TenantName) -> bool | None:
        """Whether it lets others learn from its tasks now; None: not known. A tenant that is gone
        does not. Answers within a second."""
        ...


class ExperienceStore(Protocol):
    """What experiments left; they write it with their last change."""

    async def past(self, *, is_regression: bool) -> Sequence[tuple[TenantName, Experience]]:
        """All that is kept of a kind of task, with whose it is; the newest first."""
        ...

    async def forget(self, tenant: TenantName) -> None:
        """Deletes what a tenant's experiments left."""
        ...


class Changes(Protocol):
    """Where committed changes are announced."""

    def announce(self, name: ExperimentName) -> None: ...


class Creations(Protocol):
    """How experiments come and go in the store."""

    async def create(self, experiment: Experiment, to_response: Callable[[], R]) -> tuple[R, bool]:
        """Adds one, with the answer; whether it was added now. Raises: AlreadyExists."""
        ...

    async def delete(
        self, name: ExperimentName, etag: str, to_response: Callable[[], R]
    ) -> tuple[R, Ledger | None]:
        """Forgets one; what was forgotten. Raises: NotFound, Aborted (ETAG_MISMATCH)."""
        ...
