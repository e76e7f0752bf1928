"""The exporter over real gRPC, with real child processes."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from allotment_api.common.v1 import table_pb2
from allotment_api.exporter.v1 import exporter_pb2 as pb
from allotment_api.exporter.v1.exporter_pb2_grpc import ExportServiceStub
from allotment_api.search.v1 import search_pb2
from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from allotment_core.rpc.client import from_rpc_error
from allotment_exporter.build import build
from allotment_exporter.config import ExporterConfig
from allotment_testkit.blob_service import MemoryBlobService
from allotment_testkit.graphs import CLASSES, Rows, classification_graph, model, regression_graph
from allotment_testkit.graphs import signature as said
from allotment_testkit.rpc import Served, new_signer, serving

LOCAL = "tenants/local"
EXPERIMENT = f"{LOCAL}/experiments/e"


class Bench:
    """A blob service that stays, and an exporter before it that may be restarted."""

    def __init__(self, folder: Path, blobs: MemoryBlobService, blob_server: Served) -> None:
        self.folder = folder
        self.blobs = blobs
        self._blob_server = blob_server
        self.work = folder / "work"

    @asynccontextmanager
    async def exporter(self, **settings: Any) -> AsyncIterator[Any]:
        """The stub of an exporter that runs while the block does."""
        config = ExporterConfig(
            database_url=f"sqlite:///{self.folder}/exporter.db",
            work_dir=self.work,
            **{"measure_s": 0.01, "dataset_patience_s": 5.0, **settings},
        )
        admin = self._blob_server.token(Role.ADMIN)
        channel = self._blob_server.channel(admin)
        service = await build(config, SystemClock(), channel)
        async with serving(service, signer=self._blob_server.signer) as served:
            yield ExportServiceStub(served.channel())

    def source(
        self, graph: bytes, reference: bytes, task: str = "REGRESSION", **changed: Any
    ) -> search_pb2.ModelSource:
        source = search_pb2.ModelSource(
            model=f"{EXPERIMENT}/models/1",
            graph_sha256=self.blobs.add(graph),
            reference_sha256=self.blobs.add(reference),
            task=table_pb2.TaskType.Value(f"TASK_TYPE_{task}"),
            classes=() if task == "REGRESSION" else CLASSES,
            target="y",
            metric=table_pb2.METRIC_RMSE if task == "REGRESSION" else table_pb2.METRIC_ACCURACY,
            score=0.9,
            metrics={"mae": 0.5},
            dataset_version=f"{LOCAL}/datasets/d/versions/1",
            trials=[f"{EXPERIMENT}/trials/1"],
            family="families/linear",
            library_versions={"scikit-learn": "1.9.1"},
            validation_row_count=200,
            seed=7,
        )
        source.MergeFrom(search_pb2.ModelSource(**changed))
        return source

    def good(self) -> search_pb2.ModelSource:
        rows = Rows.made()
        return self.source(regression_graph().SerializeToString(), rows.npz(rows.scores))

    def slow(self) -> search_pb2.ModelSource:
        """A graph that computes for minutes."""
        nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"])]
        nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(300)]
        nodes += [
            helper.make_node("ReduceSum", ["m300"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["prediction"]),
        ]
        return self._odd(nodes, [3000, 3000])

    def hungry(self) -> search_pb2.ModelSource:
        """A graph that asks for 80 GB."""
        nodes = [
            helper.make_node("ConstantOfShape", ["shape"], ["m"]),
            helper.make_node("ReduceSum", ["m"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["prediction"]),
        ]
        return self._odd(nodes, [100_000, 100_000])

    def _odd(self, nodes: list[Any], shape: list[int]) -> search_pb2.ModelSource:
        constant = numpy_helper.from_array(np.array([1e-9]))
        nodes[0].attribute.append(helper.make_attribute("value", constant))
        outputs = [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, 1])]
        constants = [numpy_helper.from_array(np.array(shape), "shape")]
        graph = model(nodes, outputs, constants, said("regression", ()))
        rows = Rows.made()
        return self.source(graph.SerializeToString(), rows.npz(rows.scores))

    def left_behind(self) -> list[Path]:
        return list(self.work.glob("export-*"))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    blobs = MemoryBlobService()
    async with serving(blobs.service(), signer=new_signer()) as served:
        yield Bench(tmp_path, blobs, served)
    assert not [c for c in psutil.Process().children() if "allotment_exporter" in str(c.cmdline())]


async def create(stub: Any, source: search_pb2.ModelSource, request_id: str = "r1") -> pb.Export:
    request = pb.CreateExportRequest(request_id=request_id, parent=LOCAL, source=source)
    response = await stub.CreateExport(request)
    made: pb.Export = response.export
    return made


async def ended(stub: Any, name: str) -> pb.Export:
    last = pb.Export()
    async with asyncio.timeout(30):
        async for response in stub.WatchExport(pb.WatchExportRequest(name=name)):
            last = response.export
    return last


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (it looks at processes and files)
            await asyncio.sleep(0.01)


async def until_state(stub: Any, name: str, state: Any) -> None:
    async with asyncio.timeout(20):
        async for response in stub.WatchExport(pb.WatchExportRequest(name=name)):
            if response.export.state == state:
                return


def children() -> list[psutil.Process]:
    return [c for c in psutil.Process().children() if "allotment_exporter.child" in c.cmdline()]


@asynccontextmanager
async def raises(kind: type[AllotmentError], reason: str) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as raised:
        error = from_rpc_error(raised)
        assert isinstance(error, kind)
        assert error.reason == reason
        return
    pytest.fail(f"nothing raised, not {reason}")


async def test_export_that_agrees_leaves_artefact_and_manifest(bench: Bench) -> None:
    rows = Rows.made()
    graph = classification_graph().SerializeToString()
    source = bench.source(graph, rows.npz(rows.probabilities()), "MULTICLASS")
    async with bench.exporter() as stub:
        made = await create(stub, source)
        assert made.state == pb.EXPORT_STATE_PENDING
        assert made.stage == "QUEUED"
        export = await ended(stub, made.name)
    assert export.state == pb.EXPORT_STATE_SUCCEEDED, export.problem
    assert (export.progress, export.stage) == (1.0, "DONE")
    assert export.source == source
    assert export.parity.row_count == 200
    assert export.parity.offending_row_count == 0
    assert export.measurement.rows_per_s > 0
    names = {f"{LOCAL}/blobs/{s}" for s in (export.artefact_sha256, export.manifest_sha256)}
    assert bench.blobs.holds == {export.name: names}
    content = bench.blobs.blobs[f"{LOCAL}/blobs/{export.manifest_sha256}"]
    manifest = json.loads(content)
    assert manifest["files"]["model.onnx"] == {
        "sha256": export.artefact_sha256,
        "size_bytes": export.measurement.size_bytes,
    }
    assert manifest["classes"] == list(CLASSES)
    assert manifest["metric"]["interval_95"] == pytest.approx([0.8506, 0.9342], abs=1e-3)
    assert manifest["lineage"]["trials"] == [f"{EXPERIMENT}/trials/1"]
    assert b"/home/" not in content
    assert str(bench.folder).encode() not in content
    assert b"/home/" not in bench.blobs.blobs[f"{LOCAL}/blobs/{export.artefact_sha256}"]
    assert not bench.left_behind()


def _layered(rows: Rows, *, bounded: bool) -> tuple[bytes, bytes]:
    """A graph whose last steps are products of matrices, and its reference."""
    rng = np.random.default_rng(3)
    first, second, third = rng.normal(size=(1, 40)), rng.normal(size=(40, 40)), np.ones((40, 1))
    plain = regression_graph().graph
    squash = "Tanh" if bounded else "Identity"
    nodes = [
        *list(plain.node)[:-1],
        helper.make_node("Mul", ["score", "tenth"], ["small"]),
        helper.make_node(squash, ["small"], ["squashed"]),
        helper.make_node("MatMul", ["squashed", "first"], ["h1"]),
        helper.make_node("MatMul", ["h1", "second"], ["h2"]),
        helper.make_node("MatMul", ["h2", "third"], ["prediction"]),
    ]
    arrays = {"first": first, "second": second, "third": third, "tenth": np.array(0.1)}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    made = model(
        nodes, list(plain.output), [*plain.initializer, *constants], said("regression", ())
    )
    small = rows.scores * 0.1
    expected = (np.tanh(small) if bounded else small) @ first @ second @ third
    return made.SerializeToString(), rows.npz(expected)


@pytest.mark.parametrize("bounded", [True, False])
async def test_eight_bits_are_taken_where_the_metric_allows_them(
    bench: Bench, bounded: bool
) -> None:
    source = bench.source(*_layered(Rows.made(), bounded=bounded), metrics={"rmse": 5.0})
    async with bench.exporter() as stub:
        request = pb.CreateExportRequest(
            request_id="r1", parent=LOCAL, source=source, precision=pb.PRECISION_INT8
        )
        made = (await stub.CreateExport(request)).export
        assert made.precision == pb.PRECISION_INT8
        export = await ended(stub, made.name)
    assert export.state == pb.EXPORT_STATE_SUCCEEDED, export.problem
    manifest = json.loads(bench.blobs.blobs[f"{LOCAL}/blobs/{export.manifest_sha256}"])
    artefact = bench.blobs.blobs[f"{LOCAL}/blobs/{export.artefact_sha256}"]
    exact, other = manifest["candidates"]
    # An input without bounds takes all steps for itself: the other rows fall into one of them.
    assert (exact["chosen"], other["chosen"]) == (not bounded, bounded)
    assert (other["metric_loss_at_most"] <= other["metric_loss_allowed"]) == bounded
    assert (b"MatMulInteger" in artefact) == bounded
    assert manifest["measurement"]["size_bytes"] == len(artefact)
    assert manifest["files"]["model.onnx"]["sha256"] == export.artefact_sha256


async def test_wrong_predictions_are_refused_with_the_rows(bench: Bench) -> None:
    rows = Rows.made()
    expected = rows.scores.copy()
    expected[17] += 1e-3
    expected[198] -= 5e-3
    source = bench.source(regression_graph().SerializeToString(), rows.npz(expected))
    async with bench.exporter() as stub:
        export = await ended(stub, (await create(stub, source)).name)
        assert export.state == pb.EXPORT_STATE_REFUSED
        assert export.problem.reason == "PARITY"
        assert [row.row for row in export.parity.offending_rows] == [198, 17]
        worst = export.parity.offending_rows[0]
        assert worst.kind == "UNSEEN"
        assert dict(worst.cells) == {"x": "1.0", "colour": "unseen"}
        assert worst.expected[0] == pytest.approx(worst.actual[0] - 5e-3)
        assert (await stub.GetExport(pb.GetExportRequest(name=export.name))).export == export
    assert not export.artefact_sha256
    assert not bench.blobs.holds
    assert not bench.left_behind()


async def test_garbage_graph_fails_and_the_next_export_succeeds(bench: Bench) -> None:
    async with bench.exporter() as stub:
        bad = await create(stub, bench.source(b"\x08garbage", b"PK garbage"), "a")
        good = await create(stub, bench.good(), "b")
        first, second = await ended(stub, bad.name), await ended(stub, good.name)
    assert (first.state, first.problem.reason) == (pb.EXPORT_STATE_FAILED, "BAD_GRAPH")
    assert second.state == pb.EXPORT_STATE_SUCCEEDED, second.problem


async def test_killed_child_fails_its_export_alone(bench: Bench) -> None:
    async with bench.exporter(concurrency=1) as stub:
        slow = await create(stub, bench.slow(), "a")
        await until(lambda: any(child.cpu_times().user > 1.5 for child in children()))
        busy = max(children(), key=lambda child: child.cpu_times().user)
        os.kill(busy.pid, signal.SIGSEGV)
        export = await ended(stub, slow.name)
        assert (export.state, export.problem.reason) == (pb.EXPORT_STATE_FAILED, "CRASHED")
        assert "SIGSEGV" in export.problem.message
        other = await ended(stub, (await create(stub, bench.good(), "b")).name)
    assert other.state == pb.EXPORT_STATE_SUCCEEDED, other.problem
    assert not bench.left_behind()


async def test_child_killed_while_idle_is_replaced(bench: Bench) -> None:
    async with bench.exporter() as stub:
        await until(lambda: len(children()) == 1)
        await ended(stub, (await create(stub, bench.good(), "a")).name)
        await until(lambda: len(children()) == 1)
        (idle,) = children()
        idle.kill()
        # Until the server has reaped it; what follows in its loop takes no time.
        await until(lambda: not psutil.pid_exists(idle.pid))
        await asyncio.sleep(0.05)
        export = await ended(stub, (await create(stub, bench.good(), "b")).name)
    assert export.state == pb.EXPORT_STATE_SUCCEEDED, export.problem


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("slow", {"wall_s": 1.0}, "TIMEOUT"),
        ("slow", {"cpu_s": 2}, "TIMEOUT"),
        ("hungry", {"memory_bytes": 2 << 30}, "OUT_OF_MEMORY"),
        ("good", {"graph_bytes": 200}, "BLOB_TOO_LARGE"),
    ],
)
async def test_limits_end_an_export(
    bench: Bench, kind: str, settings: dict[str, Any], reason: str
) -> None:
    source = getattr(bench, kind)()
    async with bench.exporter(**settings) as stub:
        export = await ended(stub, (await create(stub, source)).name)
    assert (export.state, export.problem.reason) == (pb.EXPORT_STATE_FAILED, reason)
    assert not bench.left_behind()


async def test_the_graphs_of_an_export_share_one_limit(bench: Bench) -> None:
    graph, rows = regression_graph(), Rows.made()
    source = bench.good()
    for weight in (0.75, 0.25):
        graph.doc_string += "x"
        part = bench.source(graph.SerializeToString(), rows.npz(rows.scores))
        source.members.add(
            trial=part.trials[0],
            weight=weight,
            family=part.family,
            graph_sha256=part.graph_sha256,
            reference_sha256=part.reference_sha256,
        )
    for share, state in ((2.1, pb.EXPORT_STATE_SUCCEEDED), (1.9, pb.EXPORT_STATE_FAILED)):
        limit = int(share * graph.ByteSize())
        async with bench.exporter(graph_bytes=limit) as stub:
            export = await ended(stub, (await create(stub, source, f"r{limit}")).name)
        assert export.state == state, export.problem
    assert export.problem.reason == "BLOB_TOO_LARGE"
    assert not bench.left_behind()


async def test_cancel_ends_what_waits_and_what_runs(bench: Bench) -> None:
    async with bench.exporter(concurrency=1) as stub:
        running = await create(stub, bench.slow(), "a")
        await until_state(stub, running.name, pb.EXPORT_STATE_RUNNING)
        waiting = await create(stub, bench.good(), "b")
        for export in (waiting, running):
            request = pb.CancelExportRequest(request_id="c" + export.name[-5:], name=export.name)
            response = await stub.CancelExport(request)
            assert response.export.state == pb.EXPORT_STATE_CANCELLED
            assert (await stub.CancelExport(request)) == response
            assert (await ended(stub, export.name)).state == pb.EXPORT_STATE_CANCELLED
        assert not bench.left_behind()
        good = await ended(stub, (await create(stub, bench.good(), "d")).name)
        assert good.state == pb.EXPORT_STATE_SUCCEEDED
        async with raises(FailedPrecondition, "EXPORT_ENDED"):
            await stub.CancelExport(pb.CancelExportRequest(request_id="e", name=good.name))


async def test_delete_lets_go_of_the_blobs(bench: Bench) -> None:
    async with bench.exporter(concurrency=1) as stub:
        export = await ended(stub, (await create(stub, bench.good(), "a")).name)
        assert export.name in bench.blobs.holds
        slow = await create(stub, bench.slow(), "b")
        async with raises(FailedPrecondition, "EXPORT_NOT_ENDED"):
            await stub.DeleteExport(pb.DeleteExportRequest(request_id="c", name=slow.name))
        bench.blobs.away = True
        request = pb.DeleteExportRequest(request_id="d", name=export.name)
        await stub.DeleteExport(request)
        await stub.DeleteExport(request)
        async with raises(NotFound, "NOT_FOUND"):
            await stub.GetExport(pb.GetExportRequest(name=export.name))
        assert export.name in bench.blobs.holds
    bench.blobs.away = False
    async with bench.exporter(concurrency=1):
        await until(lambda: export.name not in bench.blobs.holds)


async def test_restart_in_the_middle_does_it_again(bench: Bench) -> None:
    bench.blobs.away = True
    async with bench.exporter() as stub:
        export = await create(stub, bench.good())
        await until_state(stub, export.name, pb.EXPORT_STATE_RUNNING)
        await until(lambda: len(bench.left_behind()) == 1)
    bench.blobs.away = False
    (bench.work / "export-left-by-a-kill").mkdir()
    async with bench.exporter() as stub:
        again = await ended(stub, export.name)
        repeated = await create(stub, bench.good())
    assert again.state == pb.EXPORT_STATE_SUCCEEDED, again.problem
    assert repeated.name == export.name
    assert not bench.left_behind()


async def test_blob_service_may_be_away_for_a_while(bench: Bench) -> None:
    bench.blobs.away = True
    async with bench.exporter() as stub:
        export = await create(stub, bench.good())
        await until_state(stub, export.name, pb.EXPORT_STATE_RUNNING)
        await asyncio.sleep(0.3)
        bench.blobs.away = False
        assert (await ended(stub, export.name)).state == pb.EXPORT_STATE_SUCCEEDED


async def test_blob_service_away_for_too_long_fails_the_export(bench: Bench) -> None:
    bench.blobs.away = True
    async with bench.exporter(dataset_patience_s=0.2) as stub:
        export = await ended(stub, (await create(stub, bench.good())).name)
    assert (export.state, export.stage) == (pb.EXPORT_STATE_FAILED, "FETCH")
    assert export.problem.reason == "DATASET_UNAVAILABLE"


async def test_missing_blob_fails_the_export(bench: Bench) -> None:
    source = bench.good()
    bench.blobs.blobs.clear()
    async with bench.exporter() as stub:
        export = await ended(stub, (await create(stub, source)).name)
    assert (export.state, export.problem.reason) == (pb.EXPORT_STATE_FAILED, "BLOB_MISSING")


async def test_repeated_request_makes_one_export(bench: Bench) -> None:
    source = bench.good()
    async with bench.exporter() as stub:
        first, second = await asyncio.gather(create(stub, source), create(stub, source))
        assert first == second
        listed = await stub.ListExports(pb.ListExportsRequest(parent=LOCAL))
        assert [export.name for export in listed.exports] == [first.name]
        async with raises(InvalidArgument, "REQUEST_ID_REUSED"):
            source.seed += 1
            await create(stub, source)


async def test_queue_of_a_tenant_is_bounded(bench: Bench) -> None:
    bench.blobs.away = True
    source = bench.good()
    async with bench.exporter(concurrency=1, queue_limit=2) as stub:
        running = await create(stub, source, "r0")
        await until_state(stub, running.name, pb.EXPORT_STATE_RUNNING)
        for number in (1, 2):
            await create(stub, source, f"r{number}")
        async with raises(ResourceExhausted, "QUEUE_FULL"):
            await create(stub, source, "r3")


async def test_pages_have_every_export_once(bench: Bench) -> None:
    bench.blobs.away = True
    source = bench.good()
    async with bench.exporter() as stub:
        names = [(await create(stub, source, f"r{number}")).name for number in range(5)]
        listed: list[str] = []
        token = ""
        while True:
            request = pb.ListExportsRequest(parent=LOCAL, page_size=2, page_token=token)
            page = await stub.ListExports(request)
            listed += [export.name for export in page.exports]
            token = page.next_page_token
            if not token:
                break
            assert len(page.exports) == 2
        assert listed == names
        async with raises(InvalidArgument, "INVALID_PAGE_TOKEN"):
            await stub.ListExports(pb.ListExportsRequest(parent=LOCAL, page_token="abc"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("graph_sha256", "../../etc/passwd"),
        ("model", "tenants/other/experiments/e/models/1"),
        ("trials", ["tenants/other/experiments/e/trials/1"]),
        ("classes", ["a", "b"]),
        ("score", float("nan")),
    ],
)
async def test_bad_source_is_refused_at_once(bench: Bench, field: str, value: Any) -> None:
    source = bench.source(b"g", b"r", **{field: value})
    async with bench.exporter() as stub, raises(InvalidArgument, "BAD_SOURCE"):
        await create(stub, source)
