"""Blobs as objects `blobs/sha256/<sha256>` of a bucket. They never change."""

import asyncio
import contextlib
import functools
import hashlib
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from allotment_core.blobs.folder import disk_errors
from allotment_core.blobs.port import StoredBlob, check_offset, mismatch
from allotment_core.blobs.s3_bucket import Bucket, S3Config
from allotment_core.blobs.s3_reader import ObjectReader
from allotment_core.errors import AllotmentError, Cancelled, DeadlineExceeded, Unavailable
from allotment_core.names import check_sha256

__all__ = ["S3BlobStore", "S3Config"]

T = TypeVar("T")

_PREFIX = "blobs/sha256/"
_CALL_S = 120.0
"""Deadline of a call, its attempts and the wait for a thread in it."""
_SLOWEST_BYTES_PER_S = 1 << 20
"""What a call has in time besides, for the bytes that it moves."""
_BUSY_S = 30.0


class S3BlobStore:
    """A BlobStore in a bucket. `open` comes first, `close` last.

    The SDK blocks: calls run in threads of this store's own, a bounded number at once.
    """

    def __init__(self, config: S3Config, scratch: Path) -> None:
        """`scratch`: a folder for bytes whose sha256 is not known yet."""
        self._bucket = Bucket(config)
        self._scratch = scratch
        self._threads = ThreadPoolExecutor(config.concurrency, thread_name_prefix="s3")
        self._open_reads = asyncio.Semaphore(config.concurrency)

    async def open(self) -> None:
        """Raises: InvalidArgument or Unavailable when the bucket can't be used, and why."""
        await asyncio.to_thread(self._make_scratch)
        await self._call(self._bucket.open)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._bucket.close()

    async def put(
        self, chunks: AsyncIterator[bytes], expected_sha256: str | None = None
    ) -> StoredBlob:
        """See BlobStore. The name is the content's: bytes wait in a file until it is known."""
        if expected_sha256:
            check_sha256(expected_sha256, "sha256")
        aside = self._scratch / secrets.token_hex(8)
        digest = hashlib.sha256()
        try:
            with disk_errors():
                file = await asyncio.to_thread(aside.open, "xb")
                try:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
                        await asyncio.to_thread(digest.update, chunk)
                    await asyncio.to_thread(file.close)
                finally:
                    # On a full disk closing tries once more to write what was not written.
                    with contextlib.suppress(OSError):
                        file.close()
            sha256 = digest.hexdigest()
            if expected_sha256 and sha256 != expected_sha256:
                raise mismatch(expected_sha256, sha256)
            return await self.put_file(aside, sha256)
        finally:
            aside.unlink(missing_ok=True)

    async def put_file(self, path: Path, sha256: str) -> StoredBlob:
        """See BlobStore."""
        check_sha256(sha256, "sha256")
        given_up = threading.Event()
        size_bytes = (await asyncio.to_thread(path.stat)).st_size
        try:
            await self._call(self._upload, path, sha256, given_up, moved_bytes=size_bytes)
        finally:
            # A thread can't be cancelled; this one ends at its next part.
            given_up.set()
        await asyncio.to_thread(path.unlink, missing_ok=True)
        return StoredBlob(sha256=sha256, size_bytes=size_bytes)

    def _upload(self, path: Path, sha256: str, given_up: threading.Event) -> None:
        with path.open("rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            source = _Verified(file, size_bytes, sha256, given_up)
            try:
                self._bucket.upload(_PREFIX + sha256, cast(BinaryIO, source), size_bytes)
            except AllotmentError as e:
                # Cleaning up may have failed too; why it was needed says more.
                raise source.failure or e from e

    async def read(self, sha256: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See BlobStore. The next chunk is fetched while one is used."""
        check_sha256(sha256, "sha256")
        async with self._turn():
            reader = await self._call(ObjectReader, self._bucket, _PREFIX + sha256, sha256)
            coming: asyncio.Future[bytes] | None = None
            try:
                check_offset(offset, reader.size_bytes)
                coming = self._coming(reader)
                position = 0
                while chunk := await coming:
                    coming = self._coming(reader)
                    wanted = chunk[max(offset - position, 0) :]
                    position += len(chunk)
                    if wanted:
                        yield wanted
            finally:
                if coming is None:
                    reader.close()
                else:
                    # Its thread may still be reading.
                    coming.add_done_callback(functools.partial(_close, reader))

    def _coming(self, reader: ObjectReader) -> "asyncio.Future[bytes]":
        return asyncio.ensure_future(self._call(reader.next))

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the objects that may be open at once. Raises: Unavailable (STORE_BUSY)."""
        try:
            async with asyncio.timeout(_BUSY_S):
                await self._open_reads.acquire()
        except TimeoutError:
            raise Unavailable(
                f"as many blobs as may be are being read, and none ended within {_BUSY_S:g} s; "
                "try again",
                reason="STORE_BUSY",
                retry_after_s=5.0,
            ) from None
        try:
            yield
        finally:
            self._open_reads.release()

    async def stat(self, sha256: str) -> StoredBlob | None:
        """See BlobStore."""
        check_sha256(sha256, "sha256")
        size_bytes = await self._call(self._bucket.size, _PREFIX + sha256)
        if size_bytes is None:
            return None
        return StoredBlob(sha256=sha256, size_bytes=size_bytes)

    async def delete(self, sha256: str) -> None:
        """See BlobStore."""
        check_sha256(sha256, "sha256")
        await self._call(self._bucket.delete, _PREFIX + sha256)

    async def list(self) -> AsyncIterator[StoredBlob]:
        """See BlobStore."""
        after = ""
        while page := await self._call(self._bucket.page, _PREFIX, after):
            for key, size_bytes in page:
                sha256 = key.removeprefix(_PREFIX)
                if len(sha256) == 64:
                    yield StoredBlob(sha256=sha256, size_bytes=size_bytes)
            after = page[-1][0]

    async def drop_unfinished(self, before: datetime) -> int:
        """Aborts what a killed process was sending in parts since before an instant; how many."""
        return await self._call(self._bucket.abort_older, _PREFIX, before)

    def _make_scratch(self) -> None:
        with disk_errors():
            self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self._scratch.iterdir():
                left.unlink(missing_ok=True)

    async def _call(
        self, blocking: Callable[..., T], *arguments: object, moved_bytes: int = 0
    ) -> T:
        """Raises: DeadlineExceeded (STORE_SLOW), and what the call raises."""
        limit_s = _CALL_S + moved_bytes / _SLOWEST_BYTES_PER_S
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit_s):
                return await loop.run_in_executor(self._threads, blocking, *arguments)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the object store did not finish a call within {limit_s:.0f} s; try again",
                reason="STORE_SLOW",
                retry_after_s=5.0,
            ) from None


def _close(reader: ObjectReader, last: "asyncio.Future[bytes]") -> None:
    if not last.cancelled():
        # What nobody waits for any more may fail.
        last.exception()
    reader.close()


class _Verified:
    """What the SDK reads of a file; the last bytes are given only when all have the sha256."""

    def __init__(
        self, file: BinaryIO, size_bytes: int, sha256: str, given_up: threading.Event
    ) -> None:
        self._file = file
        self._left = size_bytes
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._given_up = given_up
        self.failure: AllotmentError | None = None
        if not size_bytes:
            self._check()

    def read(self, size: int) -> bytes:
        if self._given_up.is_set():
            raise self._failed(Cancelled("the store was given up", reason="GIVEN_UP"))
        data = self._file.read(size)
        self._digest.update(data)
        self._left -= len(data)
        if self._left <= 0:
            self._check()
        return data

    def _check(self) -> None:
        actual = self._digest.hexdigest()
        if actual != self._sha256:
            raise self._failed(mismatch(self._sha256, actual))

    def _failed(self, failure: AllotmentError) -> AllotmentError:
        self.failure = failure
        return failure
