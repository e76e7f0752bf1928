"""What a trainer needs from outside."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from allotment_trainer.domain.attempts import Finished
from allotment_trainer.domain.job import TrialJob
from allotment_trainer.domain.reports import Failure, Progress


class TrialProcesses(Protocol):
    """Runs trials, one at a time, each in a process of its own."""

    async def run(
        self, job: TrialJob, folder: Path, report: Callable[[Progress], None]
    ) -> tuple[Finished | Failure, float, int]:
        """The outcome, its CPU seconds and its peak of memory. Cancelled: the process is gone when
        this returns.

        Raises: Unavailable when no trial can be run here any more.
        """
        ...


class BlobStore(Protocol):
    """The tenant's blobs, for one lease."""

    async def put(self, path: Path, owner: str) -> str:
        """Stores a file for an owner; its sha256. Repeats through outages until it is cancelled."""
        ...

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """The blob's bytes from an offset. Raises: AllotmentError; Unavailable: go on from where it
        was.
        """
        ...


class DataCache(Protocol):
    """Tables on this machine's disk."""

    def hold(
        self, parts: Sequence[str], blobs: BlobStore
    ) -> AbstractAsyncContextManager[tuple[tuple[Path, ...], Path]]:
        """Files of these parts and the folder of the arrays made of them: they stay while held.

        Raises: NotFound, DataLoss: the store does not have them (any more); ResourceExhausted: the
        disk is full.
        """
        ...
