"""Files in pieces: all of them, in order, in few streams; what arrived differently is told."""

import hashlib
import io
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from allotment import upload as module
from allotment.connection import Connection
from allotment.settings import Settings
from allotment.upload import Upload
from allotment_api.dataset.v1 import dataset_pb2 as wire
from allotment_core.errors import AllotmentError, DataLoss


class FakeConnection:
    """A server that takes what is sent."""

    settings = Settings(address="127.0.0.1:1", token="t")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.received = b""
        self.streams: list[int] = []
        self.spoil = False

    async def call(self, method: Any, request: Any) -> Any:
        return await method(request)

    def note_answer(self) -> None:
        """Nobody asks."""

    async def CreateUpload(self, request: Any) -> Any:
        return wire.CreateUploadResponse(upload=wire.Upload(name="tenants/local/uploads/u"))

    async def WriteUpload(self, requests: AsyncIterator[Any], timeout: float) -> Any:
        begin = len(self.received)
        complete = False
        async for request in requests:
            assert request.offset == len(self.received)
            self.received += request.data
            complete = complete or request.last
        self.streams.append(len(self.received) - begin)
        content = self.received + b"x" * self.spoil
        sha256 = hashlib.sha256(content).hexdigest() if complete else ""
        return wire.WriteUploadResponse(
            upload=wire.Upload(
                name="tenants/local/uploads/u",
                received_bytes=len(self.received),
                complete=complete,
                sha256=sha256,
            )
        )


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 10)
    monkeypatch.setattr(module, "FIRST_SEGMENT_BYTES", 35)
    monkeypatch.setattr(module, "DatasetServiceStub", lambda channel: channel)


def sender(content: bytes, size_bytes: int | None = None) -> tuple[Upload, FakeConnection]:
    fake = FakeConnection(len(content))
    connection = cast(Any, fake)
    connection.channel = fake
    size = len(content) if size_bytes is None else size_bytes
    return Upload(cast(Connection, connection), io.BytesIO(content), size), fake


@pytest.mark.parametrize("size", [0, 1, 10, 34, 35, 36, 1000])
async def test_all_bytes_go_in_order_and_the_second_stream_is_long(size: int) -> None:
    content = bytes(place % 251 for place in range(size))
    upload, server = sender(content)
    progress: list[float] = []
    await upload.send(lambda each: progress.append(each.fraction))
    assert server.received == content
    assert server.streams == ([size] if size <= 35 else [35, size - 35])
    assert progress == sorted(progress)


async def test_other_bytes_at_the_server_are_told() -> None:
    upload, server = sender(b"content")
    server.spoil = True
    with pytest.raises(DataLoss):
        await upload.send(None)


async def test_a_file_that_became_shorter_is_told() -> None:
    upload, _ = sender(b"content" * 3, size_bytes=100)
    with pytest.raises(AllotmentError) as caught:
        await upload.send(None)
    assert caught.value.reason == "FILE_CHANGED"
