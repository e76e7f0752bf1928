"""The client against servers that come late, vanish, and come back."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import allotment
from allotment.aio.client import AsyncClient
from allotment.download import fetch_blob
from allotment_api.common.v1 import problem_pb2
from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_api.dataset.v1.blob_pb2_grpc import (
    BlobServiceServicer,
    add_BlobServiceServicer_to_server,
)
from allotment_api.dataset.v1.dataset_pb2_grpc import (
    DatasetServiceServicer,
    add_DatasetServiceServicer_to_server,
)
from allotment_api.search.v1 import search_pb2
from allotment_api.search.v1.search_pb2_grpc import (
    SearchServiceServicer,
    add_SearchServiceServicer_to_server,
)
from allotment_core.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from allotment_testkit.local_system import free_port

NAME = "tenants/local/experiments/e"


class FakeSearch(SearchServiceServicer):
    """An experiment with three changes; its first streams break after each one."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.request_ids: list[str] = []
        self.refuse_first = 0

    async def CreateExperiment(self, request: Any, context: Any) -> Any:
        self.request_ids.append(request.request_id)
        if len(self.request_ids) <= self.refuse_first:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        experiment = search_pb2.Experiment(name=NAME, spec=request.spec)
        return search_pb2.CreateExperimentResponse(experiment=experiment)

    async def GetExperiment(self, request: Any, context: Any) -> Any:
        if request.name != NAME:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such experiment")
        experiment = search_pb2.Experiment(
            name=NAME,
            state=search_pb2.EXPERIMENT_STATE_FAILED,
            problem=problem_pb2.Problem(reason="NO_TRAINER", message="nothing could run"),
        )
        return search_pb2.GetExperimentResponse(experiment=experiment)

    async def WatchExperiment(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked.append(request.after_revision)
        revision = request.after_revision + 1
        if revision < 3:
            trial = search_pb2.Trial(name=f"{NAME}/trials/{revision}")
            yield search_pb2.WatchExperimentResponse(revision=revision, trial=trial)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        state = search_pb2.EXPERIMENT_STATE_FAILED
        experiment = search_pb2.Experiment(name=NAME, state=state)
        yield search_pb2.WatchExperimentResponse(revision=revision, experiment=experiment)


class FakeData(DatasetServiceServicer):
    """Takes uploads; the first stream breaks after two chunks."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.streams = 0
        self.damage = False

    def _upload(self, *, complete: bool = False) -> dataset_pb2.Upload:
        digest = hashlib.sha256(self.content).hexdigest() if complete else ""
        if self.damage:
            digest = "0" * 64 if complete else ""
        return dataset_pb2.Upload(
            name="tenants/local/uploads/u",
            received_bytes=len(self.content),
            complete=complete,
            sha256=digest,
        )

    async def CreateUpload(self, request: Any, context: Any) -> Any:
        return dataset_pb2.CreateUploadResponse(upload=self._upload())

    async def GetUpload(self, request: Any, context: Any) -> Any:
        return dataset_pb2.GetUploadResponse(upload=self._upload())

    async def WriteUpload(self, requests: Any, context: Any) -> Any:
        self.streams += 1
        count = 0
        async for request in requests:
            assert request.offset == len(self.content)
            self.content += request.data
            count += 1
            if request.last:
                return dataset_pb2.WriteUploadResponse(upload=self._upload(complete=True))
            if self.streams == 1 and count == 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return dataset_pb2.WriteUploadResponse(upload=self._upload())

    async def CreateImport(self, request: Any, context: Any) -> Any:
        operation = dataset_pb2.Import(
            name="tenants/local/imports/i",
            state=dataset_pb2.IMPORT_STATE_FAILED,
            problem=problem_pb2.Problem(reason="NO_ROWS", message="the file has no rows"),
        )
        return dataset_pb2.CreateImportResponse(operation=operation)


class FakeBlobs(BlobServiceServicer):
    """Sends 100 bytes, and breaks once half-way."""

    content = bytes(range(100))

    def __init__(self) -> None:
        self.offsets: list[int] = []

    async def ReadBlob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.offsets.append(request.offset)
        half = self.content[request.offset : request.offset + 50]
        yield blob_pb2.ReadBlobResponse(data=half)
        if len(self.offsets) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


class Fakes:
    def __init__(self) -> None:
        # Methods that they lack answer UNIMPLEMENTED.
        self.search = FakeSearch()  # type: ignore[abstract]
        self.data = FakeData()  # type: ignore[abstract]
        self.blobs = FakeBlobs()  # type: ignore[abstract]

    async def serve(self, port: int) -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_SearchServiceServicer_to_server(self.search, server)
        add_DatasetServiceServicer_to_server(self.data, server)
        add_BlobServiceServicer_to_server(self.blobs, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return server


@asynccontextmanager
async def connected(
    fakes: Fakes | None, said: Callable[[str], None] | None = None, patience_s: float = 20.0
) -> AsyncIterator[AsyncClient]:
    port = free_port()
    server = await fakes.serve(port) if fakes else None
    address = f"127.0.0.1:{port}"
    async with AsyncClient(address, token="t", patience_s=patience_s, on_outage=said) as client:
        yield client
    if server:
        await server.stop(0)


async def test_a_server_that_comes_late_is_waited_for_and_that_is_said() -> None:
    fakes, said = Fakes(), list[str]()
    async with connected(None, said.append) as client:
        call = asyncio.create_task(client.experiments.get("e"))
        await asyncio.sleep(0.5)
        assert not call.done()
        server = await fakes.serve(int(client.settings.address.rpartition(":")[2]))
        found = await call
        await server.stop(0)
    assert found.problem is not None
    assert len(said) == 2
    assert "trying again for up to 20 s" in said[0]
    assert "answers again" in said[1]


async def test_patience_ends_with_an_error_that_says_what_to_do() -> None:
    async with connected(None, patience_s=0.3) as client:
        with pytest.raises(Unavailable, match=r"did not answer for 0\.3 s") as caught:
            await client.experiments.get("e")
    assert caught.value.reason == "SERVER_AWAY"


async def test_a_repeated_mutation_carries_the_same_request_id() -> None:
    fakes = Fakes()
    fakes.search.refuse_first = 2
    async with connected(fakes) as client:
        await client.create_experiment("d", target="y", budget_s=10)
    assert len(fakes.search.request_ids) == 3
    assert len(set(fakes.search.request_ids)) == 1


async def test_other_errors_are_raised_at_once_by_their_class() -> None:
    async with connected(Fakes()) as client:
        with pytest.raises(NotFound):
            await client.experiments.get("zzz")


async def test_a_watch_goes_on_at_its_revision() -> None:
    fakes = Fakes()
    async with connected(fakes) as client:
        names = [change.name async for change in client.watch("e")]
    assert names == [f"{NAME}/trials/1", f"{NAME}/trials/2", NAME]
    assert fakes.search.asked == [0, 1, 2]


async def test_waiting_for_a_failed_experiment_raises_its_problem() -> None:
    changes = list[object]()
    async with connected(Fakes()) as client:
        with pytest.raises(FailedPrecondition, match="nothing could run") as caught:
            await client.wait("e", progress=changes.append)
    assert caught.value.reason == "NO_TRAINER"
    assert len(changes) == 3


async def test_an_upload_goes_on_where_the_server_is(tmp_path: Path) -> None:
    fakes, path = Fakes(), tmp_path / "x.csv"
    content = bytes(i * 7 % 251 for i in range(5 << 20))
    path.write_bytes(content)
    async with connected(fakes) as client:
        with pytest.raises(allotment.errors.AllotmentError, match="no rows") as caught:
            await client.upload(path)
    assert caught.value.reason == "NO_ROWS"
    assert bytes(fakes.data.content) == content
    assert fakes.data.streams == 2


async def test_a_damaged_upload_is_noticed(tmp_path: Path) -> None:
    fakes, path = Fakes(), tmp_path / "x.csv"
    fakes.data.damage = True
    path.write_bytes(b"a,b\n1,2\n")
    async with connected(fakes) as client:
        with pytest.raises(DataLoss):
            await client.upload(path)


async def test_an_empty_file_is_uploaded_too(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"")
    async with connected(Fakes()) as client:
        with pytest.raises(allotment.errors.AllotmentError, match="no rows"):
            await client.upload(path)


async def test_a_blob_goes_on_at_its_offset_and_is_checked(tmp_path: Path) -> None:
    fakes = Fakes()
    good = hashlib.sha256(FakeBlobs.content).hexdigest()
    async with connected(fakes) as client:
        path = tmp_path / "blob"
        await fetch_blob(client.datasets._connection, f"tenants/local/blobs/{good}", path)
        assert path.read_bytes() == FakeBlobs.content
        assert fakes.blobs.offsets == [0, 50]
        with pytest.raises(DataLoss):
            await fetch_blob(
                client.datasets._connection, f"tenants/local/blobs/{'0' * 64}", tmp_path / "other"
            )
    assert os.listdir(tmp_path) == ["blob"]


def test_the_blocking_client_is_the_same_thing() -> None:
    fakes, port = Fakes(), free_port()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(fakes.serve(port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        with allotment.Client(f"127.0.0.1:{port}", token="t") as client:
            assert [change.name for change in client.watch("e")][-1] == NAME
            with pytest.raises(NotFound):
                client.experiments.get("zzz")
        with pytest.raises(FailedPrecondition, match="closed"):
            client.experiments.get("e")
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
