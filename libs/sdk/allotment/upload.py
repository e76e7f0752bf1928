"""What can be uploaded, and its way to the server in resumable pieces."""

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import grpc.aio

from allotment.connection import Connection, Outage, new_request_id
from allotment.types import Progress
from allotment_api.dataset.v1 import dataset_pb2 as wire
from allotment_api.dataset.v1.dataset_pb2_grpc import DatasetServiceStub
from allotment_core.errors import (
    AllotmentError,
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    OutOfRange,
    Unavailable,
    clip,
)
from allotment_core.rpc.client import from_rpc_error

CHUNK_BYTES = 1 << 20
AHEAD_CHUNKS = 4
"""Chunks that are read and hashed while earlier ones are on their way."""
FIRST_SEGMENT_BYTES = 32 << 20
"""Bytes that the first stream carries; the next one goes on behind them, with as many as ..."""
SEGMENT_S = 10.0
"""... take about this long, and never more than"""
LARGEST_SEGMENT_BYTES = 1 << 30
SEGMENT_DEADLINE_S = 120.0

OnProgress = Callable[[Progress], None]


@runtime_checkable
class ArrowStream(Protocol):
    """A data frame of pandas, polars, pyarrow or anything else that exports Arrow's C stream."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Source = str | Path | ArrowStream


@contextmanager
def opened(source: Source) -> Iterator[tuple[IO[bytes], int, wire.FileFormat.ValueType]]:
    """The source as a file, its size and its format. Raises: InvalidArgument when it can't be
    read.
    """
    if isinstance(source, str | Path):
        try:
            file = Path(source).open("rb")  # noqa: SIM115 - closed below, outside of this try
        except OSError as e:
            raise InvalidArgument(
                f"{clip(source)} can't be read: {e.strerror}; name a file that exists",
                reason="FILE_UNREADABLE",
            ) from e
        with file:
            yield file, _size(file), wire.FILE_FORMAT_UNSPECIFIED
    elif isinstance(source, ArrowStream):
        with tempfile.TemporaryFile(prefix="allotment-") as spool:
            _write_arrow(source, spool)
            yield spool, _size(spool), wire.FILE_FORMAT_ARROW
    else:
        raise InvalidArgument(
            f"a {type(source).__name__} can't be uploaded; give a path or a data frame "
            "(pandas, polars, pyarrow)",
            reason="BAD_SOURCE",
        )


def _size(file: IO[bytes]) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


def _write_arrow(frame: ArrowStream, file: IO[bytes]) -> None:
    try:
        import pyarrow  # noqa: PLC0415 - heavy, and needed for data frames alone
    except ImportError as e:
        raise InvalidArgument(
            "uploading a data frame needs pyarrow; pip install pyarrow, or upload a file",
            reason="PYARROW_MISSING",
        ) from e
    reader: Any = pyarrow.RecordBatchReader.from_stream(frame)
    with pyarrow.ipc.new_stream(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


class Upload:
    """One file on its way: goes on where the server says that it is, whatever happened between."""

    def __init__(self, connection: Connection, file: IO[bytes], size_bytes: int) -> None:
        self._connection = connection
        self._stub = DatasetServiceStub(connection.channel)
        self._file = file
        self._size_bytes = size_bytes
        self._sha256 = hashlib.sha256()
        self._hashed_bytes = 0
        self._segment_bytes = FIRST_SEGMENT_BYTES
        # One thread: bytes are hashed in their order.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="upload")

    async def send(self, on_progress: OnProgress | None) -> str:
        """The name of the complete upload. Raises: AllotmentError; DataLoss when bytes changed on
        the way.
        """
        try:
            upload = await self._send_all(on_progress)
        finally:
            self._reader.shutdown(wait=False, cancel_futures=True)
        if upload.sha256 and upload.sha256 != self._sha256.hexdigest():
            raise DataLoss(
                f"upload {upload.name} arrived with other bytes than were sent; upload it again",
                reason="UPLOAD_DAMAGED",
            )
        return upload.name

    async def _send_all(self, on_progress: OnProgress | None) -> wire.Upload:
        created = await self._connection.call(
            self._stub.CreateUpload,
            wire.CreateUploadRequest(
                request_id=new_request_id(),
                parent=self._connection.settings.tenant,
                size_bytes=self._size_bytes,
            ),
        )
        upload = created.upload
        outage = Outage(self._connection)
        while not upload.complete:
            try:
                upload = await self._send_segment(upload.name, upload.received_bytes, on_progress)
                outage.over()
            except grpc.aio.AioRpcError as e:
                error = from_rpc_error(e)
                if not isinstance(error, Unavailable | DeadlineExceeded | OutOfRange):
                    raise error from None
                self._segment_bytes = FIRST_SEGMENT_BYTES
                await outage.bear(error)
                upload = await self._received(upload.name)
        return upload

    async def drop(self, name: str) -> None:
        """Frees the server's copy, which nothing needs once it is imported. What can't be freed
        now expires there by itself.
        """
        request = wire.DeleteUploadRequest(request_id=new_request_id(), name=name)
        with contextlib.suppress(AllotmentError):
            await self._connection.call(self._stub.DeleteUpload, request)

    async def _received(self, name: str) -> wire.Upload:
        got = await self._connection.call(self._stub.GetUpload, wire.GetUploadRequest(name=name))
        return got.upload

    async def _send_segment(
        self, name: str, offset: int, on_progress: OnProgress | None
    ) -> wire.Upload:
        started = time.monotonic()
        chunks = self._chunks(name, offset, on_progress)
        response = await self._stub.WriteUpload(chunks, timeout=SEGMENT_DEADLINE_S)
        bytes_per_s = self._segment_bytes / max(time.monotonic() - started, 1e-3)
        self._segment_bytes = min(
            max(int(bytes_per_s * SEGMENT_S), FIRST_SEGMENT_BYTES), LARGEST_SEGMENT_BYTES
        )
        return response.upload

    async def _chunks(
        self, name: str, offset: int, on_progress: OnProgress | None
    ) -> AsyncIterator[wire.WriteUploadRequest]:
        loop = asyncio.get_running_loop()
        end = min(offset + self._segment_bytes, self._size_bytes)
        coming: deque[asyncio.Future[bytes]] = deque()
        ahead = offset
        try:
            while True:
                while len(coming) < AHEAD_CHUNKS and (ahead < end or not coming):
                    size = min(CHUNK_BYTES, end - ahead)
                    coming.append(loop.run_in_executor(self._reader, self._read, ahead, size))
                    ahead += size
                data = await coming.popleft()
                last = offset + len(data) >= self._size_bytes
                yield wire.WriteUploadRequest(name=name, offset=offset, data=data, last=last)
                offset += len(data)
                if on_progress:
                    fraction = offset / max(1, self._size_bytes)
                    on_progress(Progress(stage="upload", fraction=fraction))
                if last or offset >= end:
                    return
        finally:
            for each in coming:
                if not each.cancel():
                    # What nobody waits for any more may fail.
                    each.exception()

    def _read(self, offset: int, size_bytes: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size_bytes)
        if len(data) < size_bytes:
            raise AllotmentError(
                f"the file became shorter while it was uploaded: {offset + len(data)} of "
                f"{self._size_bytes} bytes; upload it again",
                reason="FILE_CHANGED",
            )
        new_from = self._hashed_bytes - offset
        if 0 <= new_from < len(data):
            self._sha256.update(data[new_from:])
            self._hashed_bytes = offset + len(data)
        return data
