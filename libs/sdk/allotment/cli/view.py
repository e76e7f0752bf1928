"""What `allotment run` shows: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from allotment.cli.countdown import Countdown
from allotment.cli.leaderboard import Row, ranked
from allotment.cli.render import number, print_json, print_table
from allotment.cli.started import STARTED_MONOTONIC
from allotment.types import (
    Change,
    DatasetVersion,
    Experiment,
    Model,
    Progress,
    Trial,
    TrialState,
    Wait,
)
from allotment.types import Warning as DataWarning

TABLE_ROWS = 10


class View:
    """Everything goes to stdout, and with `as_json` to stderr, so that stdout has the result
    alone.
    """

    def __init__(self, *, as_json: bool, countdown: Countdown) -> None:
        self._as_json = as_json
        self._countdown = countdown
        self._console = Console(stderr=as_json, highlight=False)
        self._live: Live | None = None
        self._experiment: Experiment | None = None
        self._trials: dict[str, Trial] = {}
        self._told: set[str] = set()
        self._waited_for = ""
        self._stage = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._status,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the terminal as it was; calling it again does nothing."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def note(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def uploading(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            if self._live is None and progress.stage in ("upload", "parse"):
                self.note(f"{progress.stage} ...")

    def data(self, version: DatasetVersion) -> None:
        self._stage = "search"
        used = sum(column.role == "feature" for column in version.columns)
        self.note(
            f"{version.row_count} rows, {len(version.columns)} columns, {used} of them usable"
        )
        self._warn(version.warnings)

    def known(self, trials: Sequence[Trial]) -> None:
        """Trials of before: they are not told of again."""
        self._stage = "search"
        self._trials.update((trial.name, trial) for trial in trials)
        self._told.update(trial.name for trial in trials)
        self.note(f"{len(trials)} trials so far")

    def begun(self, experiment: Experiment, told: Sequence[DataWarning]) -> None:
        """`told`: warnings that were shown already, or need not be."""
        self._experiment = experiment
        known = set(told)
        self._warn([warning for warning in experiment.warnings if warning not in known])
        classes = f", {len(experiment.classes)} classes" if experiment.classes else ""
        self.note(
            f"learning {experiment.target!r}: {experiment.task}{classes}, by {experiment.metric}"
        )

    def _warn(self, warnings: Sequence[DataWarning]) -> None:
        for warning in warnings:
            self.note(f"warning: {warning.message}")

    def changed(self, change: Change) -> None:
        if isinstance(change, Experiment):
            if self._experiment is None or change.best_model != self._experiment.best_model:
                self.note(
                    f"{self._clock()} model {change.best_model.rsplit('/', 1)[-1]}: "
                    f"{change.metric} {number(change.best_score)}"
                )
            self._tell_wait(change)
            self._experiment = change
        elif isinstance(change, Trial):
            self._trials[change.name] = change
            ended = change.end_time is not None and change.state is not TrialState.CANCELLED
            if ended and change.name not in self._told:
                self._told.add(change.name)
                self.note(self._trial_line(change))

    def _tell_wait(self, experiment: Experiment) -> None:
        """While nothing runs: what is waited for, once for each reason, and that it is over."""
        idle = not (experiment.running_trial_count or experiment.state.final)
        wait = experiment.wait if idle else None
        started = self._experiment is not None and self._experiment.is_queued
        if started and not experiment.is_queued and not experiment.state.final:
            counts = ": the budget counts from now" if self._countdown.ends is not None else ""
            self.note(f"{self._clock()} a trainer is granted{counts}")
        if wait is not None and wait.reason != self._waited_for and self._live is None:
            self.note(f"{self._clock()} {waiting(wait)}")
        self._waited_for = wait.reason if wait is not None else ""

    def _trial_line(self, trial: Trial) -> str:
        metric = self._experiment.metric if self._experiment else "score"
        ending = f"{metric} {number(trial.score)}" if trial.score is not None else str(trial.state)
        why = f": {trial.problem.message}" if trial.problem else ""
        return f"{self._clock()} trial {trial.id} {trial.family}: {ending}{why}"

    def _clock(self) -> str:
        return f"{time.monotonic() - STARTED_MONOTONIC:6.1f} s"

    def _status(self) -> Text:
        spent_s = time.monotonic() - STARTED_MONOTONIC
        left_s = self._countdown.left_s
        left = "" if left_s is None else f", {left_s:.0f} s left"
        if self._experiment is None:
            return Text(f"{self._stage or 'starting'} ... {spent_s:.0f} s{left}")
        if self._waited_for and self._experiment.wait is not None:
            return Text(
                f"{waiting(self._experiment.wait)} ... {spent_s:.0f} s{left}",
                style="bold",
                no_wrap=True,
                overflow="ellipsis",
            )
        running = [t for t in self._trials.values() if t.state is TrialState.RUNNING]
        names = ", ".join(t.family for t in running) or "no trial"
        finished = sum(t.end_time is not None for t in self._trials.values())
        best = number(self._experiment.best_score)
        return Text(
            f"{finished} trials finished, {names} running, "
            f"best {self._experiment.metric} {best}{left}",
            style="bold",
            no_wrap=True,
            overflow="ellipsis",
        )

    def can_resume(self, experiment: Experiment, state: Path, out: Path) -> None:
        """How to go on with a search whose state was kept."""
        name = _id(experiment.name)
        self.note(f"go on with: allotment run --resume {name} --dir {state} --out {out}")

    def finished(
        self, experiment: Experiment, model: Model, trials: Sequence[Trial], files: Sequence[Path]
    ) -> None:
        """The leaderboard and what was written."""
        self.close()
        board = ranked(trials, experiment.metric, model)
        if self._as_json:
            print_json(
                {
                    "model": model,
                    "files": {path.name: str(path) for path in files},
                    "trials": by_rank(trials, board),
                    "warnings": experiment.warnings,
                }
            )
            return
        print_table(
            ("TRIAL", "FAMILY", str(experiment.metric).upper(), "FIT S", "STATE"),
            (
                (r.id, r.family, number(r.score), f"{r.fit_s:.2f}", r.state)
                for r in board[:TABLE_ROWS]
            ),
        )
        if len(board) > TABLE_ROWS:
            print(f"... and {len(board) - TABLE_ROWS} more in leaderboard.csv")
        if len(model.members) > 1:
            parts = ", ".join(f"{m.weight:.2f} x {_id(m.trial)}" for m in model.members)
            print(f"model: {parts}")
        if model.calibration is not None:
            print(
                f"calibrated: temperature {number(model.calibration.temperature)}, expected error "
                f"{model.calibration.ece_before:.4f} -> {model.calibration.ece_after:.4f}"
            )
        for path in files:
            print(f"written: {path}")
        sys.stdout.flush()


def waiting(wait: Wait) -> str:
    """What is waited for, and in brackets what would end that."""
    place = f", place {wait.position}" if wait.position else ""
    return f"waiting: {wait.reason}{place} ({wait.message})"


def by_rank(trials: Sequence[Trial], board: Sequence[Row]) -> list[Trial]:
    """The trials in the order of the leaderboard."""
    known = {trial.id: trial for trial in trials}
    return [known[row.id] for row in board if row.id in known]


def _id(name: str) -> str:
    return name.rsplit("/", 1)[-1]
