"""Graphs that the trainer's library wrote, through the real dataset service and exporter."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from allotment_api.common.v1 import table_pb2
from allotment_api.dataset.v1 import blob_pb2
from allotment_api.dataset.v1.blob_pb2_grpc import BlobServiceStub
from allotment_api.exporter.v1 import exporter_pb2 as pb
from allotment_api.exporter.v1.exporter_pb2_grpc import ExportServiceStub
from allotment_api.search.v1 import search_pb2
from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_dataset.build import build as build_dataset
from allotment_dataset.config import DatasetConfig
from allotment_exporter.build import build
from allotment_exporter.config import ExporterConfig
from allotment_learn.table import Column, ColumnKind, Table
from allotment_learn.task import SplitMethod, SplitSpec, TaskKind, TrialOutcome, TrialTask
from allotment_learn.trial import run_trial
from allotment_search.grammar import Grammar
from allotment_testkit.rpc import Served, new_signer, serving

LOCAL = "tenants/local"
EXPERIMENT = f"{LOCAL}/experiments/e"
ROWS = 400


def trained(folder: Path, family: str, kind: TaskKind) -> tuple[TrialOutcome, tuple[str, ...]]:
    """A default of a family on a made table with missing cells, categories and dates."""
    rng = np.random.default_rng(3)
    number = rng.normal(size=ROWS) * 1e3
    number[::17] = np.nan
    colour = rng.choice(np.array(["red", "None", "grün", ""], dtype=object), ROWS)
    day = np.array([f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(ROWS)], dtype=object)
    columns = (
        Column(name="a number", type=ColumnKind.NUMERIC),
        Column(name="label", type=ColumnKind.CATEGORICAL),
        Column(name="day", type=ColumnKind.DATE, date_format="%Y-%m-%d"),
    )
    table = Table.of(columns, {"a number": number, "label": colour, "day": day}, ROWS)
    value = np.nan_to_num(number) / 1e3 + (colour == "red") + rng.normal(size=ROWS) / 10
    classes: tuple[str, ...] = ()
    target: Any = value
    if kind is not TaskKind.REGRESSION:
        classes = ("None", "ja") if kind is TaskKind.BINARY else ("None", "ja", "nein")
        target = np.digitize(value, [0.3] if kind is TaskKind.BINARY else [-0.3, 0.6])
        target = target.astype(np.int64)
    grammar = Grammar.load("tabular")
    task = TrialTask(
        pipeline=grammar.resolve(grammar.default(family)),
        table=table,
        target=target,
        task=kind,
        metric="rmse" if kind is TaskKind.REGRESSION else "log_loss",
        split=SplitSpec(method=SplitMethod.FOLDS, part_count=3, seed=1),
        seed=1,
        classes=classes,
        target_name="y",
    )
    return run_trial(task, folder, lambda report: None), classes


@pytest.fixture
async def blob_server(tmp_path: Path) -> AsyncIterator[Served]:
    config = DatasetConfig(
        database_url=f"sqlite:///{tmp_path}/dataset.db",
        blob_dir=tmp_path / "data" / "blobs",
        work_dir=tmp_path / "data" / "work",
    )
    service = await build_dataset(config, SystemClock())
    async with serving(service, signer=new_signer()) as served:
        yield served


async def put(stub: Any, path: Path) -> str:
    async def messages() -> AsyncIterator[blob_pb2.PutBlobRequest]:
        yield blob_pb2.PutBlobRequest(parent=LOCAL, owner=f"{EXPERIMENT}/trials/1")
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                yield blob_pb2.PutBlobRequest(data=data)

    response = await stub.PutBlob(messages())
    return str(response.blob.name).rpartition("/")[2]


async def read(stub: Any, sha256: str) -> bytes:
    request = blob_pb2.ReadBlobRequest(name=f"{LOCAL}/blobs/{sha256}")
    return b"".join([chunk.data async for chunk in stub.ReadBlob(request)])


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("linear", TaskKind.BINARY),
        ("random_forest", TaskKind.MULTICLASS),
        ("hist_gradient_boosting", TaskKind.REGRESSION),
        ("constant", TaskKind.REGRESSION),
    ],
)
async def test_trained_model_becomes_an_artefact(
    tmp_path: Path, blob_server: Served, family: str, kind: TaskKind
) -> None:
    (tmp_path / "trial").mkdir()
    outcome, classes = trained(tmp_path / "trial", family, kind)
    blobs = BlobServiceStub(blob_server.channel(blob_server.token(Role.ADMIN)))
    source = search_pb2.ModelSource(
        model=f"{EXPERIMENT}/models/1",
        graph_sha256=await put(blobs, outcome.graph_path),
        reference_sha256=await put(blobs, outcome.reference_path),
        task=table_pb2.TaskType.Value(f"TASK_TYPE_{kind.name}"),
        classes=classes,
        target="y",
        metric=table_pb2.METRIC_RMSE if not classes else table_pb2.METRIC_LOG_LOSS,
        score=outcome.score,
        metrics=outcome.metrics,
        dataset_version=f"{LOCAL}/datasets/d/versions/1",
        trials=[f"{EXPERIMENT}/trials/1"],
        family=f"families/{family}",
        validation_row_count=outcome.validation_row_count,
    )
    config = ExporterConfig(
        database_url=f"sqlite:///{tmp_path}/exporter.db", work_dir=tmp_path / "exporter"
    )
    channel = blob_server.channel(blob_server.token(Role.ADMIN))
    service = await build(config, SystemClock(), channel)
    async with serving(service, signer=blob_server.signer) as served:
        stub: Any = ExportServiceStub(served.channel())
        request = pb.CreateExportRequest(request_id="r", parent=LOCAL, source=source)
        made = (await stub.CreateExport(request)).export
        async for response in stub.WatchExport(pb.WatchExportRequest(name=made.name)):
            export = response.export
        assert export.state == pb.EXPORT_STATE_SUCCEEDED, (export.problem, export.parity)
        assert export.parity.row_count >= ROWS
        content = await read(blobs, export.artefact_sha256)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        assert len(session.get_inputs()) == 3
        await stub.DeleteExport(pb.DeleteExportRequest(request_id="d", name=export.name))
