"""What a command line of `allotment run` asks for."""

from dataclasses import dataclass
from pathlib import Path

from allotment.types import ColumnRole


class Interrupted(Exception):
    """Ctrl-C: the best model so far is written, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for. `budget_s` None: `trials` alone limit the search."""

    train: Path
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

    @property
    def deadline_monotonic(self) -> float | None:
        return None if self.budget_s is None else self.started_monotonic + self.budget_s
