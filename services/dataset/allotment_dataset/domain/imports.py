"""Imports: operations that turn an upload into a dataset version."""

import enum
from dataclasses import dataclass, replace
from datetime import datetime

from allotment_core.names import DatasetName, ImportName, UploadName, VersionName
from allotment_core.states import Moves
from allotment_dataset.domain.table import ColumnOverride, FileFormat


class ImportState(enum.Enum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_S = ImportState
MOVES: Moves[ImportState] = Moves(
    {
        _S.PENDING: frozenset((_S.RUNNING, _S.CANCELLED)),
        _S.RUNNING: frozenset((_S.PENDING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED)),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What was asked for."""

    upload: UploadName
    dataset: DatasetName
    append: bool = False
    format: FileFormat = FileFormat.UNSPECIFIED
    overrides: tuple[ColumnOverride, ...] = ()
    target_hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`sequence` orders imports by creation; 0: not stored yet. `problem_*` are set when FAILED."""

    name: ImportName
    request: ImportRequest
    state: ImportState = ImportState.PENDING
    progress: float = 0.0
    stage: str = "QUEUED"
    problem_reason: str = ""
    problem_message: str = ""
    version: VersionName | None = None
    attempts: int = 0
    create_time: datetime
    update_time: datetime
    sequence: int = 0

    @property
    def ended(self) -> bool:
        return self.state in MOVES.final

    def _to(self, state: ImportState, now: datetime, **changes: object) -> "Import":
        MOVES.check(self.state, state, what=str(self.name))
        return replace(self, state=state, update_time=now, **changes)  # type: ignore[arg-type]

    def started(self, now: datetime) -> "Import":
        return self._to(
            ImportState.RUNNING, now, stage="PARSE", progress=0.0, attempts=self.attempts + 1
        )

    def advanced(self, stage: str, progress: float, now: datetime) -> "Import":
        return replace(self, stage=stage, progress=progress, update_time=now)

    def put_back(self, now: datetime) -> "Import":
        """To be done again: the server restarted, or another version came between."""
        return self._to(ImportState.PENDING, now, stage="QUEUED", progress=0.0)

    def succeeded(self, version: VersionName, now: datetime) -> "Import":
        return self._to(ImportState.SUCCEEDED, now, stage="DONE", progress=1.0, version=version)

    def failed(self, reason: str, message: str, now: datetime) -> "Import":
        return self._to(
            ImportState.FAILED, now, stage="DONE", problem_reason=reason, problem_message=message
        )

    def cancelled(self, now: datetime) -> "Import":
        return self._to(ImportState.CANCELLED, now, stage="DONE")
