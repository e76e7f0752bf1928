"""Jobs of the parse child, and the port through which they run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from allotment_dataset.domain.table import (
    Column,
    ColumnOverride,
    FileFormat,
    Inspection,
    TableContent,
    TaskType,
)

MOST_COLUMNS = 4_000
"""Columns of a table at most: a version has to fit into one message."""

Progress = Callable[[str, float], None]
"""Called with the stage (PARSE, PROFILE) and the share of the job that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportJob:
    """Read `source` and leave one Parquet part in `out_dir`, which is empty. Paths are absolute.

    With `base` the rows come after those of its parts (`base_paths`), whose columns they must have.
    """

    source: str
    source_sha256: str
    out_dir: str
    format: FileFormat = FileFormat.UNSPECIFIED
    overrides: tuple[ColumnOverride, ...] = ()
    target_hint: str = ""
    base: TableContent | None = None
    base_paths: tuple[str, ...] = ()
    max_columns: int = MOST_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome:
    """`content` is of the whole version; `part_path` is the file of its last part.

    `inspection` is of the target hint with an inferred task, where that makes a valid target.
    """

    content: TableContent
    part_path: str
    inspection: Inspection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectJob:
    """Look at `target` of the table in these Parquet parts."""

    paths: tuple[str, ...]
    columns: tuple[Column, ...]
    target: str
    task: TaskType = TaskType.UNSPECIFIED


class Parser(Protocol):
    """Runs jobs on untrusted files in processes of their own, with limits.

    Cancelling the call ends the process. Raises: InvalidArgument for what is wrong with the file,
    ResourceExhausted (PARSE_LIMIT, DISK_FULL) for a limit that was hit, Unavailable for a crash
    that a second try may not repeat.
    """

    async def read_table(self, job: ImportJob, progress: Progress) -> ImportOutcome: ...

    async def inspect(self, job: InspectJob) -> Inspection: ...
