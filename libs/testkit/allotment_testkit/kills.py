"""A search whose services are killed while it runs, and what has to hold all the same."""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import allotment
from allotment.types import ExperimentState, Trial, TrialState
from allotment_core.errors import AllotmentError
from allotment_testkit.services_system import ServicesSystem

TARGETS = ("dataset", "controller", "allocator", "exporter", "gateway", "trainer")


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was seen over all searches."""

    kills: Counter[str] = field(default_factory=Counter)
    searches: int = 0
    without_model: int = 0
    """Searches that did not end well, or not with a model that can be downloaded."""
    finished: int = 0
    """Trials that ended with a result."""
    lost: int = 0
    """Finished trials that were gone later."""
    changed: int = 0
    """Finished trials that had another result later."""
    doubled: int = 0
    """Trials that were listed twice, or counted otherwise than they were listed."""
    repeated: int = 0
    """Trials that had to be begun again."""
    words: list[str] = field(default_factory=list)
    """What went wrong, for people."""

    @property
    def good(self) -> bool:
        return not (self.without_model or self.lost or self.changed or self.doubled)


def killed_search(
    system: ServicesSystem,
    dataset: str,
    folder: Path,
    tally: Tally,
    targets: Callable[[], Sequence[str]],
    *,
    target_column: str,
    budget_s: float,
    pause_s: tuple[float, float],
    rng: random.Random,
) -> None:
    """One search, during which one of `targets()` is killed after each pause, until it ends.

    Adds to the tally. `targets` is asked each time; an empty answer leaves the search alone.
    """
    with system.client() as client:
        name = client.create_experiment(dataset, target=target_column, budget_s=budget_s).name
        seen: dict[str, Trial] = {}
        failures: list[BaseException] = []

        def note(change: object) -> None:
            if isinstance(change, Trial) and change.state is TrialState.SUCCEEDED:
                seen.setdefault(change.name, change)

        def follow() -> None:
            try:
                client.wait(name, progress=note)
            except AllotmentError as e:
                failures.append(e)

        follower = threading.Thread(target=follow)
        follower.start()
        while follower.is_alive():
            follower.join(rng.uniform(*pause_s))
            if follower.is_alive() and (left := targets()):
                target = rng.choice(left)
                tally.kills[target] += _kill(system, target, rng)
        tally.searches += 1
        tally.words += [f"{name}: the client gave up: {e}" for e in failures]
        check_search(client, name, seen, folder, tally)


def _kill(system: ServicesSystem, target: str, rng: random.Random) -> int:
    """How many were killed: none where none runs at the moment."""
    running = system.trainers if target == "trainer" else [system.services.get(target, 0)]
    if not any(running):
        return 0
    try:
        os.kill(rng.choice(running), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def check_search(
    client: allotment.Client, name: str, seen: dict[str, Trial], folder: Path, tally: Tally
) -> None:
    """Compares a search that has ended with the trials that were seen finished while it ran."""
    trials = list(client.experiments.trials(name))
    now = {trial.name: trial for trial in trials}
    experiment = client.experiments.get(name)
    ended = sum(trial.end_time is not None for trial in trials)
    if len(now) != len(trials) or experiment.finished_trial_count != ended:
        tally.doubled += 1
        tally.words.append(
            f"{name}: {len(trials)} listed, {len(now)} names, {ended} ended, "
            f"{experiment.finished_trial_count} counted"
        )
    tally.finished += sum(trial.state is TrialState.SUCCEEDED for trial in trials)
    tally.repeated += sum(trial.attempts > 1 for trial in trials)
    for before in seen.values():
        after = now.get(before.name)
        if after is None:
            tally.lost += 1
            tally.words.append(f"{before.name} is gone")
        elif (after.state, after.score, after.fit_s, after.end_time) != (
            before.state,
            before.score,
            before.fit_s,
            before.end_time,
        ):
            tally.changed += 1
            tally.words.append(f"{before.name} was {before}, is {after}")
    try:
        model = client.best_model(name)
        client.download_model(model, folder / name.rpartition("/")[2])
        well = experiment.state is ExperimentState.SUCCEEDED
    except AllotmentError as e:
        tally.words.append(f"{name}: {e}")
        well = False
    if not well:
        tally.without_model += 1
        tally.words.append(f"{name} ended {experiment.state.value}: {experiment}")
