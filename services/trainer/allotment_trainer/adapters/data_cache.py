"""Tables on disk, shared by the trainers of one tenant on one machine.

    blobs/{sha256}      Parquet parts as the store sent them, verified before they get their name
    tables/{key}/       arrays made of a list of parts, written by the first trial that read them
    pins/{entry}.lock   held shared by whoever uses the entry; only an entry that nobody holds is
    removed
    tmp/{pid}-*         downloads under way

What was used longest ago goes first when the limit is passed.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from allotment_core.errors import AllotmentError, DataLoss, ResourceExhausted
from allotment_trainer.adapters.blobs import FIRST_PAUSE_S, LONGEST_PAUSE_S, PASSING
from allotment_trainer.domain.ports import BlobStore

log = logging.getLogger(__name__)

PARALLEL_DOWNLOADS = 4
_TABLE_FORMAT = "1"
"""Part of a table's key: arrays of another format are other entries."""


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    size_bytes: int
    used: float


class FolderCache:
    """DataCache in one folder. Safe with others in the same folder."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._numbers = itertools.count()
        for name in ("blobs", "tables", "pins", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()

    @asynccontextmanager
    async def hold(
        self, parts: Sequence[str], blobs: BlobStore
    ) -> AsyncIterator[tuple[tuple[Path, ...], Path]]:
        key = table_key(parts)
        with contextlib.ExitStack() as pins:
            for entry in (*dict.fromkeys(parts), key):
                pins.enter_context(self._pin(entry))
            paths = await self._fetch_all(parts, blobs)
            table = self._folder / "tables" / key
            table.mkdir(exist_ok=True, mode=0o700)
            os.utime(table)
            yield paths, table
        await asyncio.to_thread(self.evict)

    async def _fetch_all(self, parts: Sequence[str], blobs: BlobStore) -> tuple[Path, ...]:
        slots = asyncio.Semaphore(PARALLEL_DOWNLOADS)

        async def fetch(sha256: str) -> None:
            path = self._blob(sha256)
            if path.exists():
                os.utime(path)
                return
            async with slots:
                await self._download(sha256, path, blobs)

        try:
            async with asyncio.TaskGroup() as group:
                for sha256 in dict.fromkeys(parts):
                    group.create_task(fetch(sha256))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(self._blob(sha256) for sha256 in parts)

    async def _download(self, sha256: str, path: Path, blobs: BlobStore) -> None:
        temporary = self._folder / "tmp" / f"{os.getpid()}-{next(self._numbers)}"
        try:
            with temporary.open("xb") as file:
                digest = await _receive(sha256, file, blobs)
                if digest != sha256:
                    raise DataLoss(
                        f"blob {sha256} arrived damaged; the store has to be checked",
                        reason="BLOB_DAMAGED",
                    )
                await asyncio.to_thread(os.fsync, file.fileno())
            temporary.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResourceExhausted(
                "the trainer's disk is full; make room or lower its cache's size",
                reason="DISK_FULL",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def evict(self) -> None:
        """Removes what was used longest ago until the limit is kept, or what is left is in use."""
        entries = sorted(self._entries(), key=lambda e: e.used)
        total = sum(e.size_bytes for e in entries)
        for entry in entries:
            if total <= self._limit_bytes:
                return
            if self._remove(entry.path):
                total -= entry.size_bytes

    def _entries(self) -> Iterator[_Entry]:
        for path in itertools.chain(
            (self._folder / "blobs").iterdir(), (self._folder / "tables").iterdir()
        ):
            with contextlib.suppress(FileNotFoundError):
                files = list(path.iterdir()) if path.is_dir() else [path]
                size_bytes = sum(f.stat().st_size for f in files)
                yield _Entry(path, size_bytes, path.stat().st_mtime)

    def _remove(self, path: Path) -> bool:
        lock = self._lock(path.name)
        with lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _pin(self, entry: str) -> Iterator[None]:
        path = self._lock(entry)
        while True:
            with path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                if not _is_still(file, path):
                    # Removed between opening and locking: another one may have its name.
                    continue
                yield
                return

    def _sweep(self) -> None:
        """Removes what trainers that are gone were downloading."""
        for path in (self._folder / "tmp").iterdir():
            pid = path.name.partition("-")[0]
            if not pid.isdecimal() or not psutil.pid_exists(int(pid)):
                path.unlink(missing_ok=True)

    def _blob(self, sha256: str) -> Path:
        return self._folder / "blobs" / sha256

    def _lock(self, entry: str) -> Path:
        return self._folder / "pins" / f"{entry}.lock"


def table_key(parts: Sequence[str]) -> str:
    """The name of the arrays of these parts."""
    return hashlib.sha256("\n".join([_TABLE_FORMAT, *parts]).encode()).hexdigest()


async def _receive(sha256: str, file: BinaryIO, blobs: BlobStore) -> str:
    """Writes a blob to a file, through lost connections; the digest of what came."""
    hasher = hashlib.sha256()
    pause_s = FIRST_PAUSE_S

    def take(data: bytes) -> None:
        file.write(data)
        hasher.update(data)

    while True:
        try:
            async for data in blobs.read(sha256, file.tell()):
                await asyncio.to_thread(take, data)
                pause_s = FIRST_PAUSE_S
        except AllotmentError as error:
            if error.kind not in PASSING:
                raise
            log.info("blob not there yet", extra={"sha256": sha256, "error": error.message})
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            continue
        file.flush()
        return hasher.hexdigest()


def _is_still(file: BinaryIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
