"""The controller dies in the middle of a search whose trainers don't: they belong to the allocator.

Each trial takes a second, so that every death meets some under way.
"""

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

import allotment
from allotment.types import DatasetVersion, Experiment, ExperimentState, Trial, TrialState
from allotment_testkit.napping import PRODUCTIONS
from allotment_testkit.services_system import ServicesSystem, services_system

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SLOTS = 3
AWAY_S = 20.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicesSystem]:
    settings = (
        f"controller.ALLOTMENT_CONTROLLER_FAMILIES_DIR={PRODUCTIONS.parent}",
        "controller.ALLOTMENT_CONTROLLER_BUDGET_STARTS=granted",
        "allocator.ALLOTMENT_TRAINER_FAMILIES=allotment_testkit.napping",
        f"allocator.ALLOTMENT_ALLOCATOR_SLOTS={SLOTS}",
    )
    folder = tmp_path_factory.mktemp("services") / "state"
    with services_system(folder, *settings) as started:
        yield started


@pytest.fixture(scope="module")
def data(system: ServicesSystem, tmp_path_factory: pytest.TempPathFactory) -> DatasetVersion:
    rng = random.Random(3)
    lines = ["day,x,y"]
    for day in range(60):
        x = rng.gauss(0, 1)
        lines.append(f"{day},{x:.4f},{'pos' if x > 0 else 'neg'}")
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with system.client() as client:
        return client.upload(path, target_hint="y")


def naps(client: allotment.Client, data: DatasetVersion, trials: int) -> Experiment:
    return client.experiments.create(
        data,
        target="y",
        time="day",
        families=["napping"],
        trials=trials,
        max_parallel=SLOTS,
        without_early_stopping=True,
    )


def finished(client: allotment.Client, experiment: Experiment) -> int:
    return client.experiments.get(experiment).finished_trial_count


def until_finished(client: allotment.Client, experiment: Experiment, count: int) -> None:
    give_up = time.monotonic() + 60
    while finished(client, experiment) < count:
        assert time.monotonic() < give_up, "no trial ends"
        time.sleep(0.1)


def check_each_was_trained_once(client: allotment.Client, found: Experiment, count: int) -> None:
    trials: list[Trial] = list(client.experiments.trials(found))
    assert [int(t.id) for t in trials] == list(range(1, count + 1))
    assert {t.state for t in trials} == {TrialState.SUCCEEDED}
    assert {t.attempts for t in trials} == {1}, [(t.id, t.attempts_by_cause) for t in trials]
    assert {t.epoch for t in trials} == {1}


def test_no_trial_is_lost_and_none_trained_twice_over_three_deaths(
    system: ServicesSystem, data: DatasetVersion
) -> None:
    with system.client() as client:
        experiment = naps(client, data, 16)
        for count in (2, 6, 10):
            until_finished(client, experiment, count)
            system.kill("controller")
        ended = client.experiments.wait(experiment)
        assert ended.state is ExperimentState.SUCCEEDED
        check_each_was_trained_once(client, ended, 16)


def test_trainers_keep_their_results_for_a_controller_that_is_away_for_long(
    system: ServicesSystem, data: DatasetVersion
) -> None:
    with system.client() as client:
        experiment = naps(client, data, 8)
        until_finished(client, experiment, 3)
        # Stopped, so that nobody starts it again; what it has is lost all the same.
        pid = system.services["controller"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(AWAY_S)
        os.kill(pid, signal.SIGKILL)
        ended = client.experiments.wait(experiment)
        check_each_was_trained_once(client, ended, 8)
