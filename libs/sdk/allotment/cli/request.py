"""What a command line of `allotment run` asks for."""

from dataclasses import dataclass
from pathlib import Path

from allotment.types import ColumnRole


class Interrupted(Exception):
    """Ctrl-C: the best model so far is written, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for. `budget_s` None: `trials` alone limit the search."""

    train: Path | None
    """None: an experiment is resumed."""
    target: str
    out: Path
    task: str
    metric: str
    budget_s: float | None
    trials: int
    seed: int
    ignore: tuple[str, ...]
    weight: str
    group: str
    time: str
    max_parallel: int
    roles: dict[str, ColumnRole]
    started_monotonic: float
    queue_timeout_s: float | None = None
    """How long to wait for the first trainer; None: as long as that takes."""
    resume: str = ""
    """The experiment to go on with; empty: a new one."""
    state_dir: Path | None = None
    """Where our own server keeps what it knows; None: for the time of the command."""
