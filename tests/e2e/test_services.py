"""Services in processes of their own: what each offers, and what survives the death of any."""

import json
import random
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

import allotment
from allotment_core.errors import Unauthenticated
from allotment_testkit.kills import TARGETS, Tally, killed_search
from allotment_testkit.services.layout import STARTED
from allotment_testkit.services_system import ServicesSystem, services_system

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicesSystem]:
    with services_system(tmp_path_factory.mktemp("services") / "state") as started:
        yield started


@pytest.fixture(scope="module")
def dataset(system: ServicesSystem, tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = random.Random(5)
    rows = [[rng.gauss(0, 1) for _ in range(6)] for _ in range(1_500)]
    lines = [",".join(f"x{i}" for i in range(6)) + ",y"]
    for row in rows:
        label = "pos" if row[0] + row[1] * row[2] + rng.gauss(0, 0.5) > 0 else "neg"
        lines.append(",".join([*(f"{value:.4f}" for value in row), label]))
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with system.client() as client:
        return client.upload(path, target_hint="y").name


def test_each_has_metrics_and_writes_its_log_as_events(
    system: ServicesSystem, dataset: str
) -> None:
    for name, page in json.loads((system.folder / "metrics.json").read_text()).items():
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert "allotment_rpc_calls_total" in answer.read().decode(), name
        lines = (system.folder / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        assert {each["service"] for each in events} == {name}
        assert any(each["event"] == "serving" for each in events), name


def test_a_client_without_the_authority_or_a_token_is_refused(system: ServicesSystem) -> None:
    with (
        grpc.secure_channel(system.address, grpc.ssl_channel_credentials()) as stranger,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(stranger).result(timeout=1.0)
    with (
        allotment.Client(system.address, token="a.b.c", ca=system.ca) as client,
        pytest.raises(Unauthenticated, match="token"),
    ):
        list(client.datasets.list())


def test_a_search_survives_the_death_of_every_service(
    system: ServicesSystem, dataset: str, tmp_path: Path
) -> None:
    tally = Tally()
    killed_search(
        system,
        dataset,
        tmp_path,
        tally,
        lambda: [each for each in TARGETS if not tally.kills[each]],
        target_column="y",
        budget_s=35.0,
        pause_s=(1.0, 4.0),
        rng=random.Random(7),
    )
    assert tally.good, tally.words
    assert tally.finished, tally.words
    assert sorted(k for k, count in tally.kills.items() if count) == sorted(TARGETS)


def test_a_client_waits_until_all_are_back(system: ServicesSystem, dataset: str) -> None:
    with system.client() as client:
        before = [each.name for each in client.datasets.list()]
        for name in STARTED:
            system.kill(name)
        assert [each.name for each in client.datasets.list()] == before
        assert list(client.pools.list())


def test_an_upload_goes_on_when_those_who_take_it_die(
    system: ServicesSystem, tmp_path: Path
) -> None:
    count = 400_000
    rows = "a,b\n" + "".join(f"{i},{i % 7}.125\n" for i in range(count))
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    killed: list[str] = []

    def notice(*_: object) -> None:
        if not killed:
            for name in ("dataset", "gateway"):
                system.kill(name)
                killed.append(name)

    with system.client() as client:
        assert client.upload(tmp_path / "rows.csv", progress=notice).row_count == count
    assert killed


def test_sigterm_ends_them_all(system: ServicesSystem) -> None:
    """The last one: nothing serves any more."""
    there = [psutil.Process(pid) for pid in system.process_ids]
    assert len(there) > len(STARTED)
    assert system.stop() == 0
    _, left = psutil.wait_procs(there, timeout=20)
    assert not left
