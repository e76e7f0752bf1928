"""A search goes on whatever becomes of the allocator and the controller that lead."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from allotment.types import ExperimentState, Trial, TrialState
from allotment_core.errors import AllotmentError
from allotment_testkit.kills import Tally, check_search
from allotment_testkit.services.layout import LEADING
from allotment_testkit.services_system import ServicesSystem, services_system

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
]

BUDGET_S = 90.0
DEATHS = (
    ("controller", signal.SIGTERM),
    ("allocator", signal.SIGKILL),
    ("controller", signal.SIGSTOP),
    ("allocator", signal.SIGTERM),
    ("controller", signal.SIGKILL),
)
STOPPED_S = 15.0
"""Longer than a leader that can't be heard is waited for."""
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicesSystem]:
    folder = tmp_path_factory.mktemp("services") / "state"
    # Connections end all the time, and with them streams.
    aging = [
        f"{name}.ALLOTMENT_SERVE_CONNECTION_{setting}_S={value}"
        for name in ("dataset", "gateway", *LEADING)
        for setting, value in (("AGE", 3), ("GRACE", 4))
    ]
    with services_system(folder, *aging, replicas=2) as started:
        yield started


@pytest.fixture(scope="module")
def dataset(system: ServicesSystem, tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = random.Random(5)
    lines = [",".join(f"x{i}" for i in range(6)) + ",y"]
    for _ in range(1_000):
        row = [rng.gauss(0, 1) for _ in range(6)]
        label = "pos" if row[0] + row[1] * row[2] + rng.gauss(0, 0.5) > 0 else "neg"
        lines.append(",".join([*(f"{value:.4f}" for value in row), label]))
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with system.client() as client:
        return client.upload(path, target_hint="y").name


class Follower:
    """Follows an experiment to its end, from a thread."""

    def __init__(self, system: ServicesSystem, name: str) -> None:
        self.finished: dict[str, Trial] = {}
        self.failure: AllotmentError | None = None
        self._system = system
        self._name = name
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def _follow(self) -> None:
        try:
            with self._system.client() as client:
                client.wait(self._name, progress=self._note)
        except AllotmentError as e:
            self.failure = e

    def _note(self, change: object) -> None:
        if isinstance(change, Trial) and change.state is TrialState.SUCCEEDED:
            self.finished.setdefault(change.name, change)

    def wait_for_more(self) -> None:
        """Until another trial has finished, or the search."""
        before = len(self.finished)
        while len(self.finished) == before and self.goes_on:
            time.sleep(0.05)

    def join(self) -> None:
        self._thread.join()


def test_a_search_goes_on_over_leaders_that_end_die_and_stand_still(
    system: ServicesSystem, dataset: str, tmp_path: Path
) -> None:
    takeovers = 0
    with system.client() as client:
        name = client.create_experiment(dataset, target="y", budget_s=BUDGET_S).name
        follower = Follower(system, name)
        follower.wait_for_more()
        for service, number in DEATHS:
            if follower.goes_on:
                print(f"{service} after {number.name}: {take_over(system, service, number):.1f} s")
                takeovers += 1
        follower.join()
        assert follower.failure is None
        tally = Tally()
        check_search(client, name, follower.finished, tmp_path, tally)
        assert tally.good, tally.words
        assert client.experiments.get(name).state is ExperimentState.SUCCEEDED
    assert takeovers >= 2, system.log


def take_over(system: ServicesSystem, service: str, number: signal.Signals) -> float:
    """Signals the one that leads; seconds until another one, or its next start, leads."""
    system.wait_for_others(service)
    leader = system.leader(service)
    pid = system.services[leader]
    os.kill(pid, number)
    if number is signal.SIGSTOP:
        threading.Timer(STOPPED_S, os.kill, (pid, signal.SIGCONT)).start()
    began = time.monotonic()
    while system.leader(service) == leader and system.services.get(leader) == pid:
        assert time.monotonic() - began < LIMIT_S, system.log
        time.sleep(0.05)
    return time.monotonic() - began
