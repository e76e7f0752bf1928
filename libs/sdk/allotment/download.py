"""Blobs to files, checked on the way."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import grpc.aio

from allotment.connection import Connection
from allotment_api.dataset.v1 import blob_pb2
from allotment_api.dataset.v1.blob_pb2_grpc import BlobServiceStub
from allotment_core.errors import DataLoss, InvalidArgument

BLOB_S = 3600.0
"""Deadline of one blob's stream."""


async def fetch_blob(connection: Connection, name: str, path: Path) -> None:
    """The blob's bytes in the file `path`, which appears when it is whole and durable.

    Raises: DataLoss (BLOB_DAMAGED) when the bytes are not those that the name promises;
    AllotmentError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            await _receive(connection, name, file)
            await asyncio.to_thread(_flush, file)
        partial.replace(path)
    except OSError as e:
        raise InvalidArgument(
            f"{path} can't be written: {e.strerror}; choose another folder or make room",
            reason="FILE_UNWRITABLE",
        ) from e
    finally:
        partial.unlink(missing_ok=True)


async def _receive(connection: Connection, name: str, file: IO[bytes]) -> None:
    stub = BlobServiceStub(connection.channel)
    sha256 = hashlib.sha256()
    received = 0

    def open_stream() -> AsyncIterator[blob_pb2.ReadBlobResponse]:
        call: grpc.aio.UnaryStreamCall[blob_pb2.ReadBlobRequest, blob_pb2.ReadBlobResponse] = (
            stub.ReadBlob(blob_pb2.ReadBlobRequest(name=name, offset=received), timeout=BLOB_S)
        )
        return call.__aiter__()

    async for chunk in connection.follow(open_stream):
        sha256.update(chunk.data)
        file.write(chunk.data)
        received += len(chunk.data)
    if sha256.hexdigest() != name.rsplit("/", 1)[-1]:
        raise DataLoss(f"the bytes received of {name} are damaged", reason="BLOB_DAMAGED")


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
