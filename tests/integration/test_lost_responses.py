"""For every RPC that changes something: its answer is lost, the call is repeated, and the database
is as after one call.
"""

import asyncio
import hashlib
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from allotment_allocator.build import build as build_allocator
from allotment_allocator.config import AllocatorConfig
from allotment_api.allocator.v1 import allocator_pb2
from allotment_api.common.v1 import table_pb2
from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_api.exporter.v1 import exporter_pb2
from allotment_api.search.v1 import search_pb2
from allotment_controller.adapters.store import SqlStore as ControllerStore
from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.model import Artefact, Model
from allotment_controller.domain.trial import Trial, TrialResult
from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_core.names import DatasetName, ExperimentName
from allotment_core.rpc import Service
from allotment_core.rpc.service import nothing
from allotment_dataset.adapters.sql_store import SqlStore
from allotment_dataset.build import build as build_dataset
from allotment_dataset.domain.datasets import Dataset, Version, version_name
from allotment_exporter.build import build as build_exporter
from allotment_exporter.config import ExporterConfig
from allotment_search import Grammar
from allotment_testkit import surface
from allotment_testkit.dataset_records import CONTENT, NOW
from allotment_testkit.dataset_service import config_of
from allotment_testkit.lost_answers import AnswerThief, Watched, call, mutating_methods
from allotment_testkit.rpc import Served, new_signer, serving
from allotment_testkit.search_world import SearchWorld, all_trials, create, ended, spec

LOCAL = "tenants/local"
FAKE_HOST = Path(__file__).with_name("allocator_fake_host.py")
METHODS = mutating_methods()
BY_THE_CLOCK = ("touch_time",)
"""Streams have no request_id: a repeated one may tell when its bytes were last asked for."""


class World:
    """One service with a database, and a thief of answers before it."""

    def __init__(
        self, served: Served, database: Database, thief: AnswerThief, quiet_s: float = 0.05
    ) -> None:
        """`quiet_s`: nothing that goes on in the background pauses longer than this."""
        self.database = database
        self.rows = Watched(database, quiet_s)
        self.thief = thief
        self._token = served.token(Role.ADMIN)
        self._port = served.port
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        return f"r-{next(self._numbers)}"

    async def do(self, name: str, *requests: Message) -> Any:
        """Calls without losses."""
        return await self._call(self._port, name, [r.SerializeToString() for r in requests])

    async def _call(self, port: int, name: str, requests: Sequence[bytes]) -> Any:
        method = METHODS.get(name) or _read_method(name)
        assert method.descriptor is not None
        answer = await call(port, method, requests, self._token)
        return GetMessageClass(method.descriptor.output_type).FromString(answer)

    async def lose_and_repeat(self, name: str, requests: Sequence[Message]) -> None:
        """The lost call changes something; the repeated one answers and changes nothing."""
        method = METHODS[name]
        sent = [request.SerializeToString() for request in requests]
        skipped = BY_THE_CLOCK if method.client_streams else ()
        before = await self.rows.settled(but=skipped)
        stolen = self.thief.stolen_count
        self.thief.armed = True
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await self._call(self.thief.port, name, sent)
        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE, name
        assert self.thief.stolen_count == stolen + 1, name
        once = await self.rows.settled(but=skipped)
        assert once != before, f"{name} changed nothing: nothing is proven"
        answer = await self._call(self.thief.port, name, sent)
        assert await self.rows.settled(but=skipped) == once, name
        assert await self._call(self.thief.port, name, sent) == answer, name


def _read_method(name: str) -> surface.Method:
    return next(m for m in surface.methods() if m.path.endswith(f".{name}"))


@asynccontextmanager
async def world_of(service: Service, **options: Any) -> AsyncIterator[World]:
    assert service.database is not None
    async with (
        serving(service, **options) as served,
        AnswerThief(served.port) as thief,
    ):
        yield World(served, service.database, thief)


def still(service: Service) -> Service:
    """Without its background work: what waits goes on waiting."""
    return replace(service, start=nothing)


# The dataset service


@asynccontextmanager
async def dataset_world(folder: Path, url: str) -> AsyncIterator[World]:
    service = await build_dataset(config_of(folder, database_url=url), SystemClock())
    async with world_of(still(service)) as world:
        yield world


CONTENT_BYTES = b"a,b\n1,2\n" * 100


async def _new_upload(world: World) -> str:
    answer = await world.do("DatasetService/CreateUpload", _create_upload(world))
    return str(answer.upload.name)


def _create_upload(world: World) -> Message:
    return dataset_pb2.CreateUploadRequest(
        request_id=world.new_id(),
        parent=LOCAL,
        size_bytes=len(CONTENT_BYTES),
        sha256=hashlib.sha256(CONTENT_BYTES).hexdigest(),
    )


def _writes(name: str) -> list[Message]:
    return [
        dataset_pb2.WriteUploadRequest(name=name, offset=0, data=CONTENT_BYTES[:100]),
        dataset_pb2.WriteUploadRequest(name=name, offset=100, data=CONTENT_BYTES[100:], last=True),
    ]


async def create_upload(world: World) -> Sequence[Message]:
    return [_create_upload(world)]


async def write_upload(world: World) -> Sequence[Message]:
    return _writes(await _new_upload(world))


async def delete_upload(world: World) -> Sequence[Message]:
    name = await _new_upload(world)
    return [dataset_pb2.DeleteUploadRequest(request_id=world.new_id(), name=name)]


async def create_import(world: World) -> Sequence[Message]:
    name = await _new_upload(world)
    await world.do("DatasetService/WriteUpload", *_writes(name))
    return [
        dataset_pb2.CreateImportRequest(
            request_id=world.new_id(), parent=LOCAL, upload=name, dataset_id="new"
        )
    ]


async def cancel_import(world: World) -> Sequence[Message]:
    made = await world.do("DatasetService/CreateImport", *await create_import(world))
    return [dataset_pb2.CancelImportRequest(request_id=world.new_id(), name=made.operation.name)]


async def _dataset(world: World, dataset_id: str) -> DatasetName:
    name = DatasetName.parse(f"{LOCAL}/datasets/{dataset_id}")
    made = Dataset(name=name, create_time=NOW, update_time=NOW).with_version(NOW)
    version = Version(name=version_name(name, 1), content=CONTENT, create_time=NOW)
    store = SqlStore(world.database)
    await store.write(lambda records: records.put_dataset(made))
    await store.write(lambda records: records.put_version(version))
    return name


async def delete_dataset(world: World) -> Sequence[Message]:
    name = await _dataset(world, "whole")
    return [dataset_pb2.DeleteDatasetRequest(request_id=world.new_id(), name=str(name))]


async def delete_version(world: World) -> Sequence[Message]:
    name = await _dataset(world, "part")
    return [dataset_pb2.DeleteVersionRequest(request_id=world.new_id(), name=f"{name}/versions/1")]


def _put_blob(owner: str, data: bytes) -> list[Message]:
    return [
        blob_pb2.PutBlobRequest(parent=LOCAL, owner=owner),
        blob_pb2.PutBlobRequest(data=data),
    ]


async def put_blob(world: World) -> Sequence[Message]:
    return _put_blob(f"{LOCAL}/exports/put", b"put")


async def hold_blobs(world: World) -> Sequence[Message]:
    put = await world.do("BlobService/PutBlob", *_put_blob(f"{LOCAL}/exports/first", b"held"))
    owner = f"{LOCAL}/exports/second"
    return [
        blob_pb2.HoldBlobsRequest(request_id=world.new_id(), owner=owner, names=[put.blob.name])
    ]


async def release_blobs(world: World) -> Sequence[Message]:
    owner = f"{LOCAL}/exports/released"
    await world.do("BlobService/PutBlob", *_put_blob(owner, b"released"))
    return [blob_pb2.ReleaseBlobsRequest(request_id=world.new_id(), owner=owner)]


# The controller


@asynccontextmanager
async def controller_world(folder: Path, url: str) -> AsyncIterator[World]:
    pretended = SearchWorld(folder, slot_count=0, database_url=url)
    async with pretended.open(), pretended.controller():
        served = pretended.served
        assert served is not None
        [service] = served.server._services
        assert service.database is not None
        async with AnswerThief(served.port) as thief:
            yield World(served, service.database, thief, quiet_s=0.25)


def _create_experiment(world: World, experiment_id: str) -> Message:
    return search_pb2.CreateExperimentRequest(
        request_id=world.new_id(),
        parent=LOCAL,
        experiment_id=experiment_id,
        spec=spec(trial_count=3),
    )


async def create_experiment(world: World) -> Sequence[Message]:
    return [_create_experiment(world, "created")]


async def _experiment(world: World) -> str:
    request = _create_experiment(world, f"e{world.new_id()}")
    made = await world.do("SearchService/CreateExperiment", request)
    return str(made.experiment.name)


async def pause_experiment(world: World) -> Sequence[Message]:
    name = await _experiment(world)
    return [search_pb2.PauseExperimentRequest(request_id=world.new_id(), name=name)]


async def resume_experiment(world: World) -> Sequence[Message]:
    [pause] = await pause_experiment(world)
    paused = await world.do("SearchService/PauseExperiment", pause)
    name = paused.experiment.name
    return [search_pb2.ResumeExperimentRequest(request_id=world.new_id(), name=name)]


async def cancel_experiment(world: World) -> Sequence[Message]:
    name = await _experiment(world)
    return [search_pb2.CancelExperimentRequest(request_id=world.new_id(), name=name)]


async def refit_model(world: World) -> Sequence[Message]:
    [cancel] = await cancel_experiment(world)
    cancelled = await world.do("SearchService/CancelExperiment", cancel)
    name = ExperimentName.parse(cancelled.experiment.name)
    await _with_a_model(ControllerStore(world.database), name)
    request = search_pb2.RefitModelRequest(
        request_id=world.new_id(), name=f"{name}/models/1", experiment_id="refitted"
    )
    return [request]


async def _with_a_model(store: ControllerStore, name: ExperimentName) -> None:
    """Adds a trial that succeeded and its model to an experiment that has ended."""
    while not (ledger := await store.load(name)).experiment.ended:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    now = SystemClock().now()
    edit = Edit(ledger, now)
    trial = Trial(
        experiment=name,
        number=1,
        derivation=Grammar.load("tabular").default("linear"),
        origin="DEFAULT",
        create_time=now,
    )
    out = trial.assigned("tenants/local/leases/l", 1)
    result = TrialResult(score=0.5, metrics={}, fit_s=1.0)
    edit.put_trial(out.succeeded(1, result, {}, now))
    model = Model(experiment=name, number=1, trial=1, score=0.5, create_time=now)
    artefact = Artefact(artefact_sha256="a" * 64, manifest_sha256="b" * 64, size_bytes=1)
    edit.put_model(model.ready(artefact, now))
    change = edit.close()
    assert change is not None
    await store.commit(change)


async def delete_experiment(world: World) -> Sequence[Message]:
    [cancel] = await cancel_experiment(world)
    cancelled = await world.do("SearchService/CancelExperiment", cancel)
    name = cancelled.experiment.name
    return [search_pb2.DeleteExperimentRequest(request_id=world.new_id(), name=name)]


# The allocator


@asynccontextmanager
async def allocator_world(folder: Path, url: str) -> AsyncIterator[World]:
    (folder / "control").mkdir()
    os.environ["FAKE_CONTROL"] = str(folder / "control")
    config = AllocatorConfig(
        database_url=url,
        work_dir=folder / "work",
        cache_dir=folder / "cache",
        host_command=(sys.executable, "-I", str(FAKE_HOST)),
        slots=8,
        memory_bytes_per_slot=1 << 30,
    )
    signer = new_signer()
    service = await build_allocator(config, SystemClock(), signer, lambda: "127.0.0.1:4711")
    async with world_of(service, signer=signer) as world:
        yield world


def _create_tenant(world: World, tenant_id: str) -> Message:
    return allocator_pb2.CreateTenantRequest(
        request_id=world.new_id(), tenant_id=tenant_id, tenant=allocator_pb2.Tenant(weight=2.0)
    )


async def create_tenant(world: World) -> Sequence[Message]:
    return [_create_tenant(world, "created")]


async def update_tenant(world: World) -> Sequence[Message]:
    made = await world.do("TenantService/CreateTenant", _create_tenant(world, "updated"))
    request = allocator_pb2.UpdateTenantRequest(request_id=world.new_id(), tenant=made.tenant)
    request.tenant.weight = 3.0
    request.tenant.shares_experience = True
    request.update_mask.paths.extend(["weight", "shares_experience"])
    return [request]


async def delete_tenant(world: World) -> Sequence[Message]:
    made = await world.do("TenantService/CreateTenant", _create_tenant(world, "deleted"))
    return [
        allocator_pb2.DeleteTenantRequest(
            request_id=world.new_id(), name=made.tenant.name, etag=made.tenant.etag
        )
    ]


def _create_lease(world: World) -> Message:
    return allocator_pb2.CreateLeaseRequest(
        request_id=world.new_id(),
        parent=LOCAL,
        holder=f"{LOCAL}/experiments/e",
        slot_count=1,
    )


async def create_lease(world: World) -> Sequence[Message]:
    return [_create_lease(world)]


async def _held_lease(world: World) -> Any:
    made = await world.do("LeaseService/CreateLease", _create_lease(world))
    await world.rows.settled()
    got = await world.do(
        "LeaseService/GetLease", allocator_pb2.GetLeaseRequest(name=made.lease.name)
    )
    assert got.lease.state == allocator_pb2.LEASE_STATE_HELD
    return got.lease


async def renew_leases(world: World) -> Sequence[Message]:
    lease = await _held_lease(world)
    renewal = allocator_pb2.LeaseRenewal(name=lease.name, epoch=lease.epoch)
    return [allocator_pb2.RenewLeasesRequest(request_id=world.new_id(), renewals=[renewal])]


async def release_lease(world: World) -> Sequence[Message]:
    lease = await _held_lease(world)
    return [
        allocator_pb2.ReleaseLeaseRequest(
            request_id=world.new_id(), name=lease.name, epoch=lease.epoch
        )
    ]


# The exporter


@asynccontextmanager
async def exporter_world(folder: Path, url: str) -> AsyncIterator[World]:
    config = ExporterConfig(database_url=url, work_dir=folder / "work")
    async with AsyncExitStack() as stack:
        nowhere = grpc.aio.insecure_channel("127.0.0.1:1")
        stack.push_async_callback(nowhere.close)
        service = await build_exporter(config, SystemClock(), nowhere)
        yield await stack.enter_async_context(world_of(still(service)))


def _create_export(world: World) -> Message:
    source = search_pb2.ModelSource(
        model=f"{LOCAL}/experiments/e/models/1",
        graph_sha256="a" * 64,
        reference_sha256="b" * 64,
        task=table_pb2.TASK_TYPE_REGRESSION,
        target="y",
        metric=table_pb2.METRIC_RMSE,
        score=0.9,
        dataset_version=f"{LOCAL}/datasets/d/versions/1",
        trials=[f"{LOCAL}/experiments/e/trials/1"],
        family="families/linear",
        validation_row_count=200,
    )
    return exporter_pb2.CreateExportRequest(request_id=world.new_id(), parent=LOCAL, source=source)


async def create_export(world: World) -> Sequence[Message]:
    return [_create_export(world)]


async def cancel_export(world: World) -> Sequence[Message]:
    made = await world.do("ExportService/CreateExport", _create_export(world))
    return [exporter_pb2.CancelExportRequest(request_id=world.new_id(), name=made.export.name)]


async def delete_export(world: World) -> Sequence[Message]:
    [cancel] = await cancel_export(world)
    cancelled = await world.do("ExportService/CancelExport", cancel)
    name = cancelled.export.name
    return [exporter_pb2.DeleteExportRequest(request_id=world.new_id(), name=name)]


@dataclass(frozen=True, slots=True)
class Part:
    """A service and its RPCs; each case makes what its call needs and gives the requests."""

    world: Callable[[Path, str], AbstractAsyncContextManager[World]]
    cases: Mapping[str, Callable[[World], Awaitable[Sequence[Message]]]]


PARTS = {
    "dataset": Part(
        dataset_world,
        {
            "DatasetService/CreateUpload": create_upload,
            "DatasetService/WriteUpload": write_upload,
            "DatasetService/DeleteUpload": delete_upload,
            "DatasetService/CreateImport": create_import,
            "DatasetService/CancelImport": cancel_import,
            "DatasetService/DeleteDataset": delete_dataset,
            "DatasetService/DeleteVersion": delete_version,
            "BlobService/PutBlob": put_blob,
            "BlobService/HoldBlobs": hold_blobs,
            "BlobService/ReleaseBlobs": release_blobs,
        },
    ),
    "controller": Part(
        controller_world,
        {
            "SearchService/CreateExperiment": create_experiment,
            "SearchService/PauseExperiment": pause_experiment,
            "SearchService/ResumeExperiment": resume_experiment,
            "SearchService/CancelExperiment": cancel_experiment,
            "SearchService/DeleteExperiment": delete_experiment,
            "SearchService/RefitModel": refit_model,
        },
    ),
    "allocator": Part(
        allocator_world,
        {
            "TenantService/CreateTenant": create_tenant,
            "TenantService/UpdateTenant": update_tenant,
            "TenantService/DeleteTenant": delete_tenant,
            "LeaseService/CreateLease": create_lease,
            "LeaseService/RenewLeases": renew_leases,
            "LeaseService/ReleaseLease": release_lease,
        },
    ),
    "exporter": Part(
        exporter_world,
        {
            "ExportService/CreateExport": create_export,
            "ExportService/CancelExport": cancel_export,
            "ExportService/DeleteExport": delete_export,
        },
    ),
}
SESSIONS = "TrainerService/OpenSession"
"""Its messages repeat by (trial, epoch, sequence): it has a test of its own below."""


def test_every_mutating_rpc_has_its_case() -> None:
    assert {SESSIONS}.union(*(part.cases for part in PARTS.values())) == set(METHODS)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
async def test_a_lost_answer_leaves_the_state_of_one_call(
    part: Part, tmp_path: Path, database_url: str
) -> None:
    async with part.world(tmp_path, database_url) as world:
        for name, prepare in part.cases.items():
            await world.lose_and_repeat(name, await prepare(world))


async def test_a_result_whose_acknowledgement_is_lost_counts_once(
    tmp_path: Path, database_url: str
) -> None:
    world = SearchWorld(tmp_path, database_url=database_url)
    world.manners.break_after = {1, 2, 4}
    async with world.open(), world.controller() as stub:
        made = await create(stub, spec(trial_count=5))
        done = await ended(stub, made.name)
        trials = await all_trials(stub, made.name)
    finished = [t for t in trials if t.state == search_pb2.TRIAL_STATE_SUCCEEDED]
    assert done.finished_trial_count == len(finished) == 5
    assert max(trainer.sessions for trainer in world.trainers) >= 3
