"""Pods that go while trials run: no finished trial is lost, none is recorded twice."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from allotment_testkit.release import Access, Release, eventually, write_rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
BUDGET_S = 75


def running_experiment(access: Access) -> str:
    """The name of the one that runs now."""

    def found() -> str:
        listed: list[dict[str, Any]] = json.loads(access.command("experiments", "--json"))
        return next((e["name"] for e in listed if e["state"] == "RUNNING"), "")

    return str(eventually("an experiment runs", found, 60.0))


def finished(access: Access, experiment: str) -> dict[str, Any]:
    """Trials that have succeeded, by name."""
    listed: list[dict[str, Any]] = json.loads(access.command("trials", experiment, "--json"))
    names = [trial["name"] for trial in listed]
    assert max(Counter(names).values(), default=1) == 1
    return {t["name"]: t for t in listed if t["state"] == "SUCCEEDED"}


class Search:
    """`allotment run` over the gateway's NodePort, which outlives what is done to pods."""

    def __init__(self, access: Access, folder: Path) -> None:
        write_rows(folder / "train.csv", 2_000)
        self.access = access
        self.out = folder / "out"
        self._process: Popen[str] = access.started(
            *("run", str(folder / "train.csv"), "--target", "kind"),
            *("--budget", f"{BUDGET_S}s", "--out", str(self.out)),
        )
        self.experiment = running_experiment(access)

    def wait_for_trials(self, count: int) -> dict[str, Any]:
        def enough() -> dict[str, Any]:
            found = finished(self.access, self.experiment)
            return found if len(found) >= count else {}

        return dict(eventually(f"{count} trials have finished", enough, 60.0))

    def end(self, before: Sequence[dict[str, Any]]) -> None:
        """Waits for the end. What had finished before is there as it was."""
        said, _ = self._process.communicate(timeout=BUDGET_S + 120)
        assert self._process.returncode == 0, said
        after = finished(self.access, self.experiment)
        for trial in itertools.chain.from_iterable(each.values() for each in before):
            assert after[trial["name"]]["score"] == trial["score"]
        with (self.out / "leaderboard.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len({row["trial"] for row in rows}) == len(rows)
        assert (self.out / "model.onnx").stat().st_size > 0


@pytest.fixture
def lasting_access(release: Release) -> Access:
    """By NodePort: no port-forward, which ends with the pod that it leads to."""
    service = json.loads(release.kubectl("get", "service", f"{release.name}-gateway", "-o", "json"))
    port = service["spec"]["ports"][0]["nodePort"]
    return Access(environment=release.environment(f"127.0.0.1:{port}"))


def test_the_controller_goes_three_times(
    release: Release, lasting_access: Access, tmp_path: Path
) -> None:
    search = Search(lasting_access, tmp_path)
    seen = []
    for turn in range(3):
        seen.append(search.wait_for_trials(2 * turn + 1))
        force = ("--force", "--grace-period=0") if turn % 2 else ()
        pod = release.pods("controller")[0]["metadata"]["name"]
        release.kubectl("delete", "pod", pod, "--wait=false", *force)
        eventually(
            "another controller is ready",
            lambda gone=pod: [  # type: ignore[misc]
                p
                for p in release.pods("controller")
                if p["metadata"]["name"] != gone
                and any(
                    c["type"] == "Ready" and c["status"] == "True"
                    for c in p["status"].get("conditions", ())
                )
            ],
            60.0,
        )
    search.end(seen)


def test_an_upgrade_in_the_middle(release: Release, lasting_access: Access, tmp_path: Path) -> None:
    search = Search(lasting_access, tmp_path)
    seen = [search.wait_for_trials(2)]
    annotations = [
        f"{service}.podAnnotations.example\\.com/turn=two"
        for service in ("dataset", "controller", "allocator", "exporter", "gateway")
    ]
    release.upgrade(*annotations)
    seen.append(search.wait_for_trials(3))
    search.end(seen)
