"""A client whose connection is cut for five seconds carries on without code of its own."""

import threading
import time
from pathlib import Path

import pytest

import allotment
from allotment_testkit.faults import FaultyWire, faulty_wire
from allotment_testkit.services_system import System

OUTAGE_S = 5.0
ROWS = "a,b,y\n" + "".join(f"{i % 13},{i % 7},{'pq'[(i % 13) > 6]}\n" for i in range(400))


def cut_for(wire: FaultyWire, seconds: float) -> threading.Thread:
    def outage() -> None:
        wire.cut()
        time.sleep(seconds)
        wire.mend()

    thread = threading.Thread(target=outage)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_search_is_followed_through_an_outage(running_system: System, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    told: list[str] = []
    with faulty_wire(running_system.port) as wire:
        client = running_system.client(wire.address, on_outage=told.append)
        with client:
            version = client.upload(tmp_path / "rows.csv", target_hint="y")
            experiment = client.create_experiment(version.name, target="y", budget_s=14.0)
            seen: list[object] = []
            cutter: threading.Thread | None = None

            def notice(change: object) -> None:
                nonlocal cutter
                seen.append(change)
                if cutter is None:
                    cutter = cut_for(wire, OUTAGE_S)

            ended = client.wait(experiment, progress=notice)
            assert cutter is not None
            cutter.join()
            assert ended.state is allotment.ExperimentState.SUCCEEDED
            model = client.best_model(experiment)
            client.download_model(model, tmp_path / "model")
            names = [change.name for change in seen if isinstance(change, allotment.Trial)]
            trials = [trial.name for trial in client.experiments.trials(experiment)]
            assert set(names) == set(trials)
    assert told, "nobody was told of the outage"


def test_an_upload_goes_on_after_an_outage(running_system: System, tmp_path: Path) -> None:
    rows = ROWS + ROWS.partition("\n")[2] * 2_000
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    with faulty_wire(running_system.port) as wire:
        cutters: list[threading.Thread] = []

        def notice(*_: object) -> None:
            if not cutters:
                cutters.append(cut_for(wire, 1.0))

        with running_system.client(wire.address) as client:
            version = client.upload(tmp_path / "rows.csv", progress=notice)
        assert cutters
        cutters[0].join()
        assert version.row_count == rows.count("\n") - 1
