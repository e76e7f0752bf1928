"""Real trials in a real host: every family on a table with quirks, over the wire and back."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allotment_api.common.v1 import table_pb2
from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_learn.families import mlp
from allotment_search import Grammar
from allotment_testkit.trainer_stage import TRIALS, HostProcess, Stage, assignment, staged
from allotment_trainer.processes import preload

ROWS = 300
FAMILIES = (
    "constant",
    "linear",
    "random_forest",
    "extra_trees",
    "hist_gradient_boosting",
    "lightgbm",
    "mlp",
)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@pytest.fixture
async def host(stage: Stage) -> AsyncIterator[HostProcess]:
    async with stage.host() as made:
        yield made


def _part() -> bytes:
    rng = np.random.default_rng(1)
    x = rng.normal(size=ROWS)
    x[::7] = np.nan
    color = rng.choice(["red", "", "grün"], ROWS)
    label = np.where(np.nan_to_num(x) + (color == "red") > 0.3, "yes", "no")
    label[5] = ""
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": x, "color": color, "label": label}), sink)
    return sink.getvalue()


def _choice(symbol: str, value: str | float | int | bool) -> search_pb2.Choice:
    if isinstance(value, bool):
        return search_pb2.Choice(symbol=symbol, flag=value)
    if isinstance(value, int):
        return search_pb2.Choice(symbol=symbol, integer=value)
    if isinstance(value, float):
        return search_pb2.Choice(symbol=symbol, number=value)
    return search_pb2.Choice(symbol=symbol, production=value)


def _assignment(number: int, family: str, part: str) -> pb.Assignment:
    message = assignment(str(number))
    message.family = f"families/{family}"
    message.memory_bytes = 1 << 30
    choices = Grammar.load("tabular").default(family)
    message.derivation.extend(
        _choice(c.symbol, 15 if c.symbol == "mlp.epochs" else c.value) for c in choices
    )
    message.table.part_sha256.append(part)
    message.table.row_count = ROWS
    categorical = table_pb2.COLUMN_TYPE_CATEGORICAL
    message.table.columns.extend(
        [
            table_pb2.Column(name="x", type=table_pb2.COLUMN_TYPE_NUMERIC),
            table_pb2.Column(name="color", type=categorical),
            table_pb2.Column(name="label", type=categorical),
        ]
    )
    message.target = "label"
    message.task = table_pb2.TASK_TYPE_BINARY
    message.metric = table_pb2.METRIC_LOG_LOSS
    message.classes.extend(["no", "yes"])
    message.feature_columns.extend(["x", "color"])
    return message


@pytest.mark.timeout(180)
async def test_every_family_is_trained_and_leaves_a_graph(stage: Stage, host: HostProcess) -> None:
    part = stage.blobs.add(_part())
    host.order("start", **stage.start(memory_bytes=1 << 30))
    await stage.controller.connected()
    offered = {f.family: f.available for f in stage.controller.hellos[0].families}
    # Without torch there are no networks: `mlp` says why.
    assert offered == dict.fromkeys(FAMILIES, True) | {"mlp": not mlp.unavailable_because()}
    for number, family in enumerate((f for f in FAMILIES if offered[f]), 1):
        stage.controller.say(assignment=_assignment(number, family, part))
        # torch and its exporter take seconds to import.
        result = await stage.controller.result_of(f"{TRIALS}/{number}", within_s=90.0)
        assert 0 < result.score < 1
        assert result.validation_row_count == ROWS - 1
        graph = stage.blobs.blobs[f"tenants/local/blobs/{result.graph_sha256}"]
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == ["x", "color"]
        probabilities = session.run(
            ["probabilities"],
            {"x": np.array([[np.nan]]), "color": np.array([["blue"]], dtype=object)},
        )[0]
        assert abs(probabilities.sum() - 1) < 1e-6


@pytest.mark.parametrize("family", ["lightgbm", "hist_gradient_boosting"])
async def test_a_trial_that_is_put_off_within_its_first_fit_ends_as_if_it_never_was(
    family: str, stage: Stage, host: HostProcess
) -> None:
    part = stage.blobs.add(_part())
    host.order("start", **stage.start(memory_bytes=1 << 30))
    await stage.controller.connected()
    stage.controller.say(assignment=_assignment(1, family, part))
    whole = await stage.controller.result_of(f"{TRIALS}/1", within_s=60.0)

    stage.controller.acknowledges = False
    judged = _assignment(2, family, part)
    judged.fit_rungs.extend([9, 3])
    stage.controller.say(assignment=judged)
    await stage.controller.told("progress", f"{TRIALS}/2")
    stop = pb.StopTrial(trial=f"{TRIALS}/2", trial_epoch=1, reason="NO_POTENTIAL")
    stage.controller.say(stop=stop)
    failure = await stage.controller.failure_of(f"{TRIALS}/2")
    assert failure.cause == search_pb2.ATTEMPT_CAUSE_PAUSED
    stage.controller.acknowledges = True
    for report in list(stage.controller.reports):
        key = getattr(report, str(report.WhichOneof("message"))).key
        stage.controller.say(acknowledgement=pb.Acknowledgement(key=key))

    again = _assignment(3, family, part)
    again.fit_rungs.append(3)
    again.checkpoint_sha256 = failure.checkpoint_sha256
    stage.controller.say(assignment=again)
    result = await stage.controller.result_of(f"{TRIALS}/3", within_s=60.0)
    assert result.graph_sha256 == whole.graph_sha256
    assert result.reference_sha256 == whole.reference_sha256
    told: dict[str, list[pb.TrialProgress]] = {}
    for report in stage.controller.reports:
        if report.HasField("progress"):
            told.setdefault(report.progress.key.trial[-1], []).append(report.progress)
    assert (told["2"][0].finished_folds, told["2"][0].fit_rung) == (0, 9)
    assert [(p.finished_folds, p.fit_rung) for p in told["3"][:2]] == [(0, 3), (1, 0)]
    assert [p.score for p in told["3"][1:]] == [p.score for p in told["1"]]


async def test_the_host_has_one_thread_and_no_grpc(stage: Stage, host: HostProcess) -> None:
    process = psutil.Process(host.pid)
    assert process.num_threads() == 1
    assert not [m.path for m in process.memory_maps() if "grpc" in m.path]


def test_a_bundled_openmp_runtime_is_found_for_machines_without_one() -> None:
    bundled = preload.bundled_openmp()
    assert bundled is None or bundled.is_file()
