"""Files in the making: incoming blobs and the folders of the parse child."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from allotment_core.errors import InvalidArgument, ResourceExhausted
from allotment_core.names import new_id
from allotment_dataset.adapters.disk import told_when_full
from allotment_dataset.adapters.write_behind import WriteBehind
from allotment_dataset.domain.ports import Bytes
from allotment_dataset.domain.uploads import CHUNK_BYTES


class FolderSpool:
    """A folder that holds nothing of worth: it is emptied at every start.

    It has to be on the same file system as the blob store: finished files are moved, not copied.
    """

    def __init__(self, folder: Path, stored: Bytes) -> None:
        self._folder = folder
        self._bytes = stored

    async def empty(self) -> None:
        await asyncio.to_thread(self._empty)

    def _empty(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        with told_when_full("the working folder"):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def folder(self, label: str) -> Path:
        path = self._folder / new_id(label)
        with told_when_full("the working folder"):
            await asyncio.to_thread(path.mkdir, mode=0o700)
        return path

    async def drop(self, path: Path) -> None:
        await asyncio.to_thread(_drop, path)

    async def write(self, chunks: AsyncIterator[bytes], limit_bytes: int) -> tuple[Path, str, int]:
        path = self._folder / new_id("blob")
        try:
            with told_when_full("the blob"):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                file = WriteBehind(descriptor, 0, "the blob")
                try:
                    async for chunk in chunks:
                        _check_chunk(chunk, file.size_bytes, limit_bytes)
                        await file.append(chunk)
                    sha256 = await file.sha256()
                finally:
                    await file.close()
            finally:
                os.close(descriptor)
        except BaseException:
            await asyncio.to_thread(_drop, path)
            raise
        return path, sha256, file.size_bytes

    async def fetch(self, sha256: str, size_bytes: int, folder: Path) -> Path:
        path = folder / f"{sha256}.parquet"
        with told_when_full("a working copy"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                async for piece in self._bytes.read(sha256):
                    await asyncio.to_thread(_write, descriptor, piece)
            finally:
                os.close(descriptor)
        return path


def _check_chunk(chunk: bytes, size_bytes: int, limit_bytes: int) -> None:
    if len(chunk) > CHUNK_BYTES:
        raise InvalidArgument(
            f"the chunk has {len(chunk)} bytes; the limit is {CHUNK_BYTES}: send smaller ones",
            reason="CHUNK_TOO_LARGE",
        )
    if size_bytes + len(chunk) > limit_bytes:
        raise ResourceExhausted(
            f"the blob has more than {limit_bytes} bytes, which is the limit; store less at "
            "once, or raise "
            "ALLOTMENT_DATASET_MAX_BLOB_BYTES",
            reason="BLOB_TOO_LARGE",
        )


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _drop(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
