"""The controller dies in the middle of a search whose trainers don't: they belong to the allocator.

Each trial takes a second, so that every death meets some under way.
"""

import os
import signal
import time
from collections.abc import Iterator

import pytest

import allotment
from allotment.types import DatasetVersion, Experiment, ExperimentState
from allotment_testkit import naps
from allotment_testkit.services_system import ServicesSystem, services_system

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SLOTS = 3
AWAY_S = 20.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicesSystem]:
    folder = tmp_path_factory.mktemp("services") / "state"
    slots = f"allocator.ALLOTMENT_ALLOCATOR_SLOTS={SLOTS}"
    with services_system(folder, *naps.SERVICES, slots) as started:
        yield started


@pytest.fixture(scope="module")
def data(system: ServicesSystem, tmp_path_factory: pytest.TempPathFactory) -> DatasetVersion:
    path = naps.write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")
    with system.client() as client:
        return client.upload(path, target_hint="y")


def finished(client: allotment.Client, experiment: Experiment) -> int:
    return client.experiments.get(experiment).finished_trial_count


def until_finished(client: allotment.Client, experiment: Experiment, count: int) -> None:
    give_up = time.monotonic() + 60
    while finished(client, experiment) < count:
        assert time.monotonic() < give_up, "no trial ends"
        time.sleep(0.1)


def test_no_trial_is_lost_and_none_trained_twice_over_three_deaths(
    system: ServicesSystem, data: DatasetVersion
) -> None:
    with system.client() as client:
        experiment = naps.begin(client, data, naps=15, parallel=SLOTS)
        for count in (2, 6, 10):
            until_finished(client, experiment, count)
            system.kill("controller")
        ended = client.experiments.wait(experiment)
        assert ended.state is ExperimentState.SUCCEEDED
        naps.check_each_was_trained_once(client, ended, naps=15)


def test_trainers_keep_their_results_for_a_controller_that_is_away_for_long(
    system: ServicesSystem, data: DatasetVersion
) -> None:
    with system.client() as client:
        experiment = naps.begin(client, data, naps=7, parallel=SLOTS)
        until_finished(client, experiment, 3)
        # Stopped, so that nobody starts it again; what it has is lost all the same.
        pid = system.services["controller"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(AWAY_S)
        os.kill(pid, signal.SIGKILL)
        ended = client.experiments.wait(experiment)
        naps.check_each_was_trained_once(client, ended, naps=7)
