"""Blobs as files of one folder."""

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from allotment_core.blobs.port import (
    CHUNK_BYTES,
    StoredBlob,
    check_offset,
    mismatch,
    missing,
    verify,
)
from allotment_core.durable import sync_folder
from allotment_core.errors import ResourceExhausted, Unavailable
from allotment_core.names import check_sha256


class FolderBlobStore:
    """A BlobStore in a folder: `sha256/ab/abcd...`, written aside, synced, then renamed."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "sha256"
        self._aside = folder / "incoming"
        for each in (self._blobs, self._aside):
            each.mkdir(parents=True, exist_ok=True)
        # What a killed server was writing; nobody was told of it.
        for left in self._aside.iterdir():
            left.unlink(missing_ok=True)

    async def put(
        self, chunks: AsyncIterator[bytes], expected_sha256: str | None = None
    ) -> StoredBlob:
        """See BlobStore."""
        if expected_sha256:
            check_sha256(expected_sha256, "sha256")
        aside = self._aside / secrets.token_hex(8)
        digest = hashlib.sha256()
        size = 0
        with disk_errors():
            file = await asyncio.to_thread(aside.open, "xb")
            try:
                async for chunk in chunks:
                    await asyncio.to_thread(_append, file, digest, chunk)
                    size += len(chunk)
                sha256 = digest.hexdigest()
                if expected_sha256 and sha256 != expected_sha256:
                    raise mismatch(expected_sha256, sha256)
                await asyncio.to_thread(self._keep, file, aside, sha256)
            finally:
                aside.unlink(missing_ok=True)
                # On a full disk closing tries once more to write what was not written.
                with contextlib.suppress(OSError):
                    file.close()
        return StoredBlob(sha256=sha256, size_bytes=size)

    async def put_file(self, path: Path, sha256: str) -> StoredBlob:
        """See BlobStore. A file on the same file system is moved, not copied."""
        check_sha256(sha256, "sha256")
        return await asyncio.to_thread(self._put_file, path, sha256)

    def _put_file(self, path: Path, sha256: str) -> StoredBlob:
        with disk_errors(), path.open("r+b") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != sha256:
                raise mismatch(sha256, actual)
            size = os.fstat(file.fileno()).st_size
            aside = self._aside / secrets.token_hex(8)
            try:
                try:
                    os.link(path, aside)
                except OSError as e:
                    if e.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                        raise
                    file.seek(0)
                    with aside.open("xb") as copy:
                        while chunk := file.read(CHUNK_BYTES):
                            copy.write(chunk)
                        self._keep(copy, aside, sha256)
                else:
                    self._keep(file, aside, sha256)
            finally:
                aside.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        return StoredBlob(sha256=sha256, size_bytes=size)

    def _keep(self, file: BinaryIO, aside: Path, sha256: str) -> None:
        """Makes the file the blob, durably. A blob that is there is replaced: that heals damage."""
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
        target = self._path(sha256)
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            sync_folder(self._blobs)
        aside.replace(target)
        sync_folder(target.parent)

    async def read(self, sha256: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See BlobStore."""
        path = self._path(check_sha256(sha256, "sha256"))
        with disk_errors():
            try:
                file = await asyncio.to_thread(path.open, "rb")
            except FileNotFoundError:
                raise missing(sha256) from None
            with file:
                size = os.fstat(file.fileno()).st_size
                check_offset(offset, size)
                digest = hashlib.sha256()
                position = 0
                while chunk := await asyncio.to_thread(_next_chunk, file, digest):
                    wanted = chunk[max(offset - position, 0) :]
                    position += len(chunk)
                    # The last chunk goes out only with a blob that is whole.
                    if position >= size:
                        verify(digest, sha256)
                    if wanted:
                        yield wanted
                verify(digest, sha256)

    async def stat(self, sha256: str) -> StoredBlob | None:
        """See BlobStore."""
        path = self._path(check_sha256(sha256, "sha256"))
        try:
            return StoredBlob(sha256=sha256, size_bytes=path.stat().st_size)
        except FileNotFoundError:
            return None

    async def delete(self, sha256: str) -> None:
        """See BlobStore."""
        path = self._path(check_sha256(sha256, "sha256"))
        with disk_errors():
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def list(self) -> AsyncIterator[StoredBlob]:
        """See BlobStore."""
        for folder in sorted(self._blobs.iterdir()):
            for path in await asyncio.to_thread(lambda f: sorted(f.iterdir()), folder):
                blob = await self.stat(path.name)
                if blob is not None:
                    yield blob

    def _path(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256


def _append(file: BinaryIO, digest: Any, chunk: bytes) -> None:
    digest.update(chunk)
    file.write(chunk)


def _next_chunk(file: BinaryIO, digest: Any) -> bytes:
    chunk = file.read(CHUNK_BYTES)
    digest.update(chunk)
    return chunk


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Tells what a disk can't do in the error tree's terms."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceExhausted(
                "the server's disk is full: the blob was not stored; free some space there and "
                "repeat the request",
                reason="DISK_FULL",
                retry_after_s=10.0,
            ) from e
        if e.errno in (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE):
            raise Unavailable(
                f"the blob store can't be used now ({e.strerror}); the server's administrator has "
                "to look at its disk",
                reason="STORE_UNAVAILABLE",
                retry_after_s=5.0,
            ) from e
        raise
