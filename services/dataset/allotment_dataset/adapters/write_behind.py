"""A file that is written and hashed in a worker thread while the next bytes arrive."""

import asyncio
import hashlib
import os

from allotment_core.errors import AllotmentError, DataLoss
from allotment_dataset.adapters.disk import told_when_full

_WINDOW_BYTES = 16 << 20
"""Bytes that may wait; who brings more waits too."""
_SYNC_BYTES = 32 << 20
"""Written bytes after which the disk is told to begin: so the last sync has little left to do."""


class WriteBehind:
    """Appends to an open file. Used in one asyncio loop, by one caller at a time.

    An error of the disk comes with a later call than the one that brought the bytes; then
    `size_bytes` and the file are back at what was written before, or what was synced before.
    """

    def __init__(self, descriptor: int, size_bytes: int, what: str) -> None:
        """`what`: names the bytes in errors."""
        self._descriptor = descriptor
        self._what = what
        self.size_bytes = size_bytes
        self._written_bytes = size_bytes
        self._synced_bytes = size_bytes
        self._digest = hashlib.sha256()
        self._digested_bytes = 0
        self._waiting: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None
        self._syncer: asyncio.Future[None] | None = None
        self._moved = asyncio.Event()
        self._failure: Exception | None = None

    async def append(self, data: bytes) -> None:
        """Returns before the bytes are written. Raises: ResourceExhausted (DISK_FULL)."""
        self._raise_failure()
        self._waiting.append(data)
        self.size_bytes += len(data)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_waiting(), name="write behind")
        while not self._failure and self.size_bytes - self._written_bytes > _WINDOW_BYTES:
            self._moved.clear()
            await self._moved.wait()
        self._raise_failure()

    async def flush(self) -> None:
        """All bytes are written after it. Raises: ResourceExhausted (DISK_FULL)."""
        if self._writer is not None:
            await asyncio.shield(self._writer)
        self._raise_failure()

    async def sync(self) -> None:
        """All bytes are durable after it. Raises: ResourceExhausted (DISK_FULL)."""
        await self.flush()
        await self._end_syncer()
        self._raise_failure()
        self._begin_sync()
        await self._end_syncer()
        self._raise_failure()

    async def sha256(self) -> str:
        """Of the file from its begin; what was there before is read."""
        await self.flush()
        await asyncio.to_thread(self._digest_rest)
        return self._digest.hexdigest()

    async def clear(self) -> None:
        """Empties the file."""
        await self.flush()
        await self._end_syncer()
        await asyncio.to_thread(self._cut, 0)
        self.size_bytes = self._synced_bytes = 0

    async def close(self) -> None:
        """Nothing uses the descriptor after it; bytes that wait are not written."""
        self._waiting.clear()
        if self._writer is not None:
            await asyncio.shield(self._writer)
        await self._end_syncer()

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await asyncio.to_thread(self._write, batch)
                self._moved.set()
                ahead = self._written_bytes - self._synced_bytes
                if ahead >= _SYNC_BYTES and (self._syncer is None or self._syncer.done()):
                    await self._end_syncer()
                    if self._failure is None:
                        self._begin_sync()
        except (AllotmentError, OSError) as e:
            self._waiting.clear()
            self._failure = e
        finally:
            self._writer = None
            self._moved.set()

    def _write(self, batch: list[bytes]) -> None:
        with told_when_full(self._what):
            for data in batch:
                rest, place = memoryview(data), self._written_bytes
                try:
                    while rest:
                        count = os.pwrite(self._descriptor, rest, place)
                        rest, place = rest[count:], place + count
                except OSError:
                    os.ftruncate(self._descriptor, self._written_bytes)
                    raise
                if self._digested_bytes == self._written_bytes:
                    self._digest.update(data)
                    self._digested_bytes += len(data)
                self._written_bytes = place

    def _begin_sync(self) -> None:
        loop = asyncio.get_running_loop()
        self._syncer = loop.run_in_executor(None, self._sync, self._written_bytes)

    async def _end_syncer(self) -> None:
        """Takes note of how the sync that runs ends."""
        if self._syncer is None:
            return
        await asyncio.wait([self._syncer])
        syncer, self._syncer = self._syncer, None
        failure = syncer.exception()
        if isinstance(failure, AllotmentError | OSError):
            # The kernel tells once; the next sync would succeed without these bytes.
            await asyncio.to_thread(self._cut, self._synced_bytes)
            # With what came during the cut: it belongs behind bytes that are gone.
            self._waiting.clear()
            self._failure = failure

    def _sync(self, written_bytes: int) -> None:
        with told_when_full(self._what):
            os.fsync(self._descriptor)
        self._synced_bytes = written_bytes

    def _cut(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)
        self._written_bytes = size_bytes
        self._digest = hashlib.sha256()
        self._digested_bytes = 0

    def _digest_rest(self) -> None:
        while self._digested_bytes < self._written_bytes:
            wanted = min(1 << 20, self._written_bytes - self._digested_bytes)
            block = os.pread(self._descriptor, wanted, self._digested_bytes)
            if not block:
                raise DataLoss(
                    "the upload's file was cut; upload it again", reason="UPLOAD_DAMAGED"
                )
            self._digest.update(block)
            self._digested_bytes += len(block)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            self.size_bytes = self._written_bytes
            raise failure
