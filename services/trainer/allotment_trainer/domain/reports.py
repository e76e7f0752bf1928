"""What a trainer tells about its trials, and what of it has not been acknowledged yet."""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from allotment_trainer.domain.job import Attempt

LOG_TAIL_BYTES = 4096


class Cause(enum.Enum):
    """Why an attempt ended without a result; the names are those of the contract."""

    PREEMPTED = "PREEMPTED"
    LOST = "LOST"
    PAUSED = "PAUSED"
    CRASH = "CRASH"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Started:
    """The attempt has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """After a fold; the score is of the folds so far, None where there is none. With a `fit_rung` n
    within the first fold, when one n-th of its fit is done."""

    finished_folds: int
    fold_count: int
    score: float | None
    fit_rung: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The attempt ended well and its files are stored."""

    score: float
    metrics: Mapping[str, float]
    fit_s: float
    cpu_s: float
    peak_memory_bytes: int
    graph_sha256: str
    reference_sha256: str
    predictions_sha256: str
    fold_count: int
    validation_row_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The attempt ended without a result. `message` is for users: no paths, no stack traces."""

    cause: Cause
    reason: str
    message: str
    log_tail: str = ""
    checkpoint_sha256: str = ""
    """Fitted folds to go on from; empty: none."""
    checkpoint_folds: int = 0
    checkpoint_steps: int = 0
    """Of the first fold's fit, while no fold is fitted."""


Report = Started | Progress | Result | Failure


@dataclass(frozen=True, slots=True)
class ReportKey:
    """Which report it is: sequences count from 1 for each attempt."""

    attempt: Attempt
    sequence: int


class Outbox:
    """Reports in the order they were made, until each is acknowledged."""

    def __init__(self) -> None:
        self._pending: dict[ReportKey, Report] = {}
        self._sequences: dict[Attempt, int] = {}

    def add(self, attempt: Attempt, report: Report) -> ReportKey:
        """Keeps the report under the attempt's next sequence."""
        sequence = self._sequences.get(attempt, 0) + 1
        self._sequences[attempt] = sequence
        key = ReportKey(attempt, sequence)
        self._pending[key] = report
        return key

    def acknowledge(self, key: ReportKey) -> Report | None:
        """Forgets the report. None: it was acknowledged before, or never made."""
        report = self._pending.pop(key, None)
        if isinstance(report, Result | Failure):
            self._sequences.pop(key.attempt, None)
        return report

    def after(self, key: ReportKey | None) -> Iterator[tuple[ReportKey, Report]]:
        """What is not acknowledged, oldest first: all of it, or what was made after `key`."""
        pending = list(self._pending.items())
        order = [k for k, _ in pending]
        start = order.index(key) + 1 if key in self._pending else 0
        yield from pending[start:]

    def is_empty(self) -> bool:
        return not self._pending

    def awaits(
        self, attempt: Attempt, folds: tuple[int, ...], fit_rungs: tuple[int, ...] = ()
    ) -> bool:
        """Whether the attempt has told of one of these numbers of folds, or of one of these rungs
        within the first fit, and had no answer yet."""
        return any(
            key.attempt == attempt
            and isinstance(report, Progress)
            and (report.finished_folds in folds or report.fit_rung in fit_rungs)
            for key, report in self._pending.items()
        )

    def finals(self) -> tuple[Attempt, ...]:
        """The attempts whose end is among the reports."""
        return tuple(
            key.attempt
            for key, report in self._pending.items()
            if isinstance(report, Result | Failure)
        )
