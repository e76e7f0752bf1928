"""Searches whose trials sleep one second each: what is told to a system, and what is expected."""

import random
from pathlib import Path

import allotment
from allotment.types import DatasetVersion, Experiment, Trial, TrialState
from allotment_testkit.napping import PRODUCTIONS

FAMILY = "napping"
MODULE = "allotment_testkit.napping"
SERVICES = (
    f"controller.ALLOTMENT_CONTROLLER_FAMILIES_DIR={PRODUCTIONS.parent}",
    "controller.ALLOTMENT_CONTROLLER_BUDGET_STARTS=granted",
    f"allocator.ALLOTMENT_TRAINER_FAMILIES={MODULE}",
)
"""For `services_system`."""
CHART = (
    "controller.extraEnv[0].name=ALLOTMENT_CONTROLLER_FAMILIES_DIR",
    "controller.extraEnv[0].value=/app/allotment_testkit/napping",
    f"trainer.environment.ALLOTMENT_TRAINER_FAMILIES={MODULE}",
)
"""For a Helm release: the images have the testkit."""


def write_rows(path: Path, count: int = 200) -> Path:
    """Rows in the order of time: then a trial has one fit."""
    rng = random.Random(0)
    lines = ["day,x0,x1,y"]
    for day in range(count):
        x0, x1 = rng.gauss(0, 1), rng.gauss(0, 1)
        lines.append(f"{day},{x0:.4f},{x1:.4f},{'pos' if x0 + x1 > 0 else 'neg'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def begin(
    client: allotment.Client, data: DatasetVersion, *, naps: int, parallel: int
) -> Experiment:
    """A search of so many naps, after the constant predictor, which every search trains first."""
    return client.experiments.create(
        data,
        target="y",
        time="day",
        families=[FAMILY],
        trials=naps + 1,
        max_parallel=parallel,
        without_early_stopping=True,
    )


def check_each_was_trained_once(
    client: allotment.Client, experiment: Experiment, *, naps: int
) -> list[Trial]:
    """All trials of a search that has ended, by number. Raises: AssertionError."""
    trials = list(client.experiments.trials(experiment))
    assert [int(t.id) for t in trials] == list(range(1, naps + 2))
    assert {t.state for t in trials} == {TrialState.SUCCEEDED}
    assert {t.attempts for t in trials} == {1}, [(t.id, t.attempts_by_cause) for t in trials]
    assert {t.epoch for t in trials} == {1}
    assert sum(t.family == FAMILY for t in trials) == naps
    return trials
