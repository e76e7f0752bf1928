"""Stopping a fit between two of its steps, and going on from there later, bit for bit.

A step is what the family counts: an epoch of a network. Who paces a fit decides after each step
whether it goes on; a fit that is told to pause leaves its state in a folder and raises `FitPaused`.
Fitting the same task with the same folder takes the state up again. Files there are safetensors and
JSON alone.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar, Protocol

from allotment_core.errors import DataLoss


class Verdict(Enum):
    """What a fit does after a step."""

    CONTINUE = "continue"
    PAUSE = "pause"


class FitPaused(Exception):
    """The fit's state is in its folder; `step` steps are done."""

    def __init__(self, step: int) -> None:
        super().__init__(f"paused after step {step}")
        self.step = step


class CheckpointDamaged(DataLoss):
    """The state can't be read, or belongs to another fit."""

    default_reason: ClassVar[str] = "CHECKPOINT_DAMAGED"


@dataclass(frozen=True, slots=True)
class Pace:
    """Who says whether a fit goes on, and where it leaves its state.

    `report(step, score)`: after each step; the score is a loss on rows that the fit keeps aside,
    lower is better. Not asked after the last step.
    """

    folder: Path
    report: Callable[[int, float], Verdict]


class Checkpointed(Protocol):
    """A fit that goes step by step and can be kept between two of them."""

    @property
    def step(self) -> int:
        """Steps done so far."""
        ...

    @property
    def is_done(self) -> bool: ...

    def advance(self) -> float:
        """One step; its score."""
        ...

    def save(self, folder: Path) -> None:
        """Replaces what the folder holds in one move."""
        ...

    def load(self, folder: Path) -> bool:
        """Takes up what the folder holds; False when it holds nothing.

        Raises: CheckpointDamaged.
        """
        ...

    def discard(self, folder: Path) -> None:
        """Removes what `save` left."""
        ...


def drive(fit: Checkpointed, pace: Pace | None) -> None:
    """Runs a fit to its end, from where its folder says.

    Raises: FitPaused when the pace says so; CheckpointDamaged.
    """
    if pace is None:
        while not fit.is_done:
            fit.advance()
        return
    fit.load(pace.folder)
    while not fit.is_done:
        score = fit.advance()
        if not fit.is_done and pace.report(fit.step, score) is Verdict.PAUSE:
            pace.folder.mkdir(parents=True, exist_ok=True)
            fit.save(pace.folder)
            raise FitPaused(fit.step)
    with contextlib.suppress(FileNotFoundError):
        fit.discard(pace.folder)
