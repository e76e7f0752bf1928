"""Uploads through gRPC: resumable, repeatable, verified, durable when answered."""

import asyncio
import errno
import hashlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError

from allotment_api.dataset.v1 import dataset_pb2 as pb
from allotment_core.clock import SystemClock
from allotment_core.errors import AllotmentError
from allotment_core.names import UploadName
from allotment_core.rpc.client import from_rpc_error
from allotment_dataset.adapters.upload_files import FolderUploadFile, FolderUploadFiles
from allotment_dataset.domain import uploading
from allotment_testkit.dataset_service import (
    TENANT,
    DatasetClient,
    dataset_service,
    iter_async,
    rid,
)

CONTENT = bytes(range(256)) * 100


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[DatasetClient]:
    async with dataset_service(tmp_path) as opened:
        yield opened


async def created(client: DatasetClient, **fields: Any) -> str:
    request = pb.CreateUploadRequest(request_id=rid(), parent=TENANT, **fields)
    answer = await client.datasets.CreateUpload(request)
    name: str = answer.upload.name
    return name


async def write(client: DatasetClient, name: str, *chunks: tuple[int, bytes, bool]) -> Any:
    messages = [
        pb.WriteUploadRequest(name=name, offset=offset, data=data, last=last)
        for offset, data, last in chunks
    ]
    answer = await client.datasets.WriteUpload(iter_async(messages), timeout=20)
    return answer.upload


async def refused(call: Any) -> AllotmentError:
    with pytest.raises(AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_chunks_arrive_repeat_overlap_and_complete(client: DatasetClient) -> None:
    name = await created(client)
    upload = await write(client, name, (0, CONTENT[:100], False), (0, CONTENT[:100], False))
    assert (upload.received_bytes, upload.complete) == (100, False)
    upload = await write(client, name, (50, CONTENT[50:200], False))
    assert upload.received_bytes == 200
    upload = await write(client, name, (200, CONTENT[200:], True))
    assert upload.complete
    assert upload.sha256 == hashlib.sha256(CONTENT).hexdigest()
    again = await write(client, name, (200, CONTENT[200:], True))
    assert again == upload


async def test_other_bytes_at_the_same_offset_are_refused(client: DatasetClient) -> None:
    name = await created(client)
    await write(client, name, (0, b"abc", False))
    assert (await refused(write(client, name, (0, b"abd", False)))).reason == "BYTES_DIFFER"
    assert (await refused(write(client, name, (2, b"xy", False)))).reason == "BYTES_DIFFER"


async def test_a_gap_tells_where_to_go_on(client: DatasetClient) -> None:
    name = await created(client)
    error = await refused(write(client, name, (0, b"abc", False), (5, b"x", False)))
    assert error.reason == "OFFSET_TOO_FAR"
    assert error.metadata["received_bytes"] == "3"
    answer = await client.datasets.GetUpload(pb.GetUploadRequest(name=name))
    assert answer.upload.received_bytes == 3


async def test_wrong_checksums_begin_again(client: DatasetClient) -> None:
    name = await created(client, sha256=hashlib.sha256(CONTENT).hexdigest())
    error = await refused(write(client, name, (0, b"other", True)))
    assert error.reason == "CHECKSUM_MISMATCH"
    assert (await write(client, name, (0, CONTENT, True))).complete


async def test_an_announced_size_completes_without_a_last_chunk(client: DatasetClient) -> None:
    name = await created(client, size_bytes=3)
    assert (await write(client, name, (0, b"abc", False))).complete


async def test_nothing_goes_after_the_end(client: DatasetClient) -> None:
    name = await created(client)
    await write(client, name, (0, b"abc", True))
    assert (await refused(write(client, name, (3, b"d", False)))).reason == "UPLOAD_COMPLETE"


async def test_the_name_stays_the_same_within_a_stream(client: DatasetClient) -> None:
    first, second = await created(client), await created(client)
    messages = [
        pb.WriteUploadRequest(name=first, data=b"a"),
        pb.WriteUploadRequest(name=second, offset=1, data=b"b"),
    ]
    call = client.datasets.WriteUpload(iter_async(messages), timeout=20)
    assert (await refused(call)).reason == "STREAM_CHANGED"
    assert (await refused(client.datasets.WriteUpload(iter_async([]), timeout=20))).reason


async def test_a_file_that_could_not_be_opened_is_tried_again(
    client: DatasetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = FolderUploadFiles._open
    failures = [OSError(errno.EMFILE, "too many open files")]

    def open_later(files: FolderUploadFiles, name: UploadName, size_bytes: int) -> Any:
        if failures:
            raise failures.pop()
        return really_open(files, name, size_bytes)

    monkeypatch.setattr(FolderUploadFiles, "_open", open_later)
    name = await created(client)
    assert (await refused(write(client, name, (0, b"abc", True)))).reason == "INTERNAL"
    assert (await write(client, name, (0, b"abc", True))).complete


async def test_a_caller_that_leaves_while_its_file_is_opened_leaves_it_closed(
    client: DatasetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "_LINGER_S", 0.05)
    really_open = FolderUploadFiles._open
    opening, go_on = threading.Event(), threading.Event()
    opened: list[FolderUploadFile] = []

    def open_slowly(files: FolderUploadFiles, name: UploadName, size_bytes: int) -> Any:
        opening.set()
        assert go_on.wait(30)
        opened.append(really_open(files, name, size_bytes))
        return opened[-1]

    monkeypatch.setattr(FolderUploadFiles, "_open", open_slowly)
    name = await created(client)
    call = asyncio.create_task(write(client, name, (0, b"abc", True)))
    await asyncio.to_thread(opening.wait, 30)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.sleep(0.1)
    go_on.set()
    async with asyncio.timeout(20):
        while not opened or opened[0]._descriptor >= 0:  # noqa: ASYNC110 (told by nothing)
            await asyncio.sleep(0.02)
    assert (await write(client, name, (0, b"abc", True))).complete


async def test_what_was_answered_survives_a_restart(tmp_path: Path) -> None:
    async with dataset_service(tmp_path) as client:
        name = await created(client)
        await write(client, name, (0, CONTENT[:1000], False))
        signer = client.served.signer
    stored = tmp_path / "work/uploads/local" / UploadName.parse(name).upload_id
    with stored.open("ab") as file:
        file.write(b"bytes that nobody was told of")
    async with dataset_service(tmp_path, signer=signer) as client:
        upload = await write(client, name, (1000, CONTENT[1000:], True))
        assert upload.sha256 == hashlib.sha256(CONTENT).hexdigest()


async def test_deleted_uploads_leave_no_file(client: DatasetClient, tmp_path: Path) -> None:
    name = await created(client)
    await write(client, name, (0, b"abc", True))
    request = pb.DeleteUploadRequest(request_id=rid(), name=name)
    await client.datasets.DeleteUpload(request)
    await client.datasets.DeleteUpload(request)
    assert (await refused(client.datasets.GetUpload(pb.GetUploadRequest(name=name)))).reason
    assert list((tmp_path / "work/uploads/local").iterdir()) == []


class _Later(SystemClock):
    ahead = timedelta()

    def now(self) -> Any:
        return super().now() + self.ahead


async def test_uploads_expire_a_day_after_the_last_write(tmp_path: Path) -> None:
    clock = _Later()
    async with dataset_service(tmp_path, clock=clock, collect_every_s=0.05) as client:
        await created(client)
        name = await created(client)
        await write(client, name, (0, b"abc", False))
        clock.ahead = timedelta(hours=25)
        late = DatasetClient(client.served)
        for _ in range(200):
            if not list((tmp_path / "work/uploads/local").iterdir()):
                break
            await asyncio.sleep(0.02)
        error = await refused(late.datasets.GetUpload(pb.GetUploadRequest(name=name)))
        assert error.reason == "NOT_FOUND"
    assert list((tmp_path / "work/uploads/local").iterdir()) == []


async def test_sizes_are_limited(tmp_path: Path) -> None:
    async with dataset_service(tmp_path, max_upload_bytes=10) as client:
        assert (await refused(created(client, size_bytes=11))).reason == "UPLOAD_TOO_LARGE"
        name = await created(client)
        error = await refused(write(client, name, (0, bytes(11), False)))
        assert error.reason == "UPLOAD_TOO_LARGE"
