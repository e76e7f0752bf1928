"""Trials of one second each, of a family that only this registers, in pods."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import allotment
from allotment.types import DatasetVersion, Experiment, ExperimentState
from allotment_testkit import naps
from allotment_testkit.release import Access, Release, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
PARALLEL = 4


@pytest.fixture(scope="module")
def client(release: Release) -> Iterator[allotment.Client]:
    """By NodePort: no port-forward, which ends with the pod that it leads to."""
    release.upgrade(*naps.CHART)
    service = json.loads(release.kubectl("get", "service", f"{release.name}-gateway", "-o", "json"))
    port = service["spec"]["ports"][0]["nodePort"]
    with Access(environment=release.environment(f"127.0.0.1:{port}")).client() as opened:
        yield opened
    release.upgrade()


@pytest.fixture(scope="module")
def data(client: allotment.Client, tmp_path_factory: pytest.TempPathFactory) -> DatasetVersion:
    path = naps.write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")
    return client.upload(path, target_hint="y")


def leases(release: Release) -> set[str]:
    return {pod["metadata"]["labels"]["allotment.dev/lease"] for pod in release.pods("trainer")}


def test_a_pod_takes_many_trials(
    release: Release, client: allotment.Client, data: DatasetVersion
) -> None:
    before = leases(release)
    ended = client.experiments.wait(naps.begin(client, data, naps=24, parallel=PARALLEL))
    naps.check_each_was_trained_once(client, ended, naps=24)
    assert 1 <= len(leases(release) - before) <= PARALLEL
    assert ended.start_time is not None
    assert ended.start_time >= ended.create_time


def ready_controller(release: Release, other_than: str) -> list[dict[str, Any]]:
    return [
        pod
        for pod in release.pods("controller")
        if pod["metadata"]["name"] != other_than
        and any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod["status"].get("conditions", ())
        )
    ]


def until_finished(client: allotment.Client, experiment: Experiment, count: int) -> None:
    eventually(
        f"{count} trials have finished",
        lambda: client.experiments.get(experiment).finished_trial_count >= count,
        90.0,
    )


def test_no_trial_is_trained_twice_while_the_controller_goes_three_times(
    release: Release, client: allotment.Client, data: DatasetVersion
) -> None:
    experiment = naps.begin(client, data, naps=60, parallel=PARALLEL)
    for turn, count in enumerate((3, 12, 24)):
        until_finished(client, experiment, count)
        pod = release.pods("controller")[0]["metadata"]["name"]
        force = ("--force", "--grace-period=0") if turn % 2 else ()
        release.kubectl("delete", "pod", pod, "--wait=false", *force)
        another = partial(ready_controller, release, pod)
        eventually("another controller is ready", another, 60.0)
    ended = client.experiments.wait(experiment)
    assert ended.state is ExperimentState.SUCCEEDED
    naps.check_each_was_trained_once(client, ended, naps=60)
