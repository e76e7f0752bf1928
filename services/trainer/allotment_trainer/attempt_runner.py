"""One attempt at a trial: data, process, files, report."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from allotment_core.errors import AllotmentError, ErrorKind, Unavailable
from allotment_trainer import checkpoints
from allotment_trainer.domain.attempts import Finished
from allotment_trainer.domain.job import TrialJob
from allotment_trainer.domain.ports import BlobStore, DataCache, TrialProcesses
from allotment_trainer.domain.reports import Cause, Failure, Report, Result, Started

log = logging.getLogger(__name__)

FETCH_S = 30.0
"""What fetching a checkpoint may take."""
KEEP_S = 3.0
"""What storing a checkpoint may take at least: a lease that is taken back ends 5 s later."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What an attempt that was stopped leaves to go on from."""

    checkpoint_sha256: str = ""
    folds: int = 0
    steps: int = 0


async def _at_once() -> None:
    """No word is waited for."""


class AttemptRunner:
    """Runs attempts for one lease, one at a time, in folders that it removes."""

    def __init__(
        self, processes: TrialProcesses, cache: DataCache, blobs: BlobStore, work_dir: Path
    ) -> None:
        self._processes = processes
        self._cache = cache
        self._blobs = blobs
        self._work_dir = work_dir
        self.is_handing_in = False
        """Whether the attempt's process is done and its files are being stored."""
        self.kept = Kept()
        """Of the last attempt, once it was cancelled."""

    async def run(
        self,
        job: TrialJob,
        report: Callable[[Report], None],
        may_end: Callable[[], Awaitable[None]] = _at_once,
        keep_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Reports the start, every fold, and the end, which is not handed in before `may_end`
        returns. Cancelled: the process is gone when this returns, and no end is reported; its
        fitted folds are stored first, if that takes no longer than `keep_s`. Raises: Unavailable
        when no trial can be run here any more; that is reported too.
        """
        self.kept = Kept()
        report(Started())
        try:
            end = await self._end(job, report, may_end, keep_s)
        except Unavailable as error:
            report(Failure(cause=Cause.LOST, reason=error.reason, message=error.message))
            raise
        except AllotmentError as error:
            end = _failed(error)
        except OSError as error:
            log.exception("trial's files", extra={"trial": job.trial})
            message = f"the trainer could not keep the trial's files ({error.strerror})"
            end = Failure(cause=Cause.CRASH, reason="FILES", message=message)
        report(end)

    async def _end(
        self,
        job: TrialJob,
        report: Callable[[Report], None],
        may_end: Callable[[], Awaitable[None]],
        keep_s: Callable[[], float],
    ) -> Result | Failure:
        with _folder(
            self._work_dir / f"trial-{job.trial.rpartition('/')[2]}-{job.epoch}"
        ) as folder:
            async with self._cache.hold(job.parts, self._blobs) as (parts, table):
                here = replace(job, part_paths=tuple(map(str, parts)), table_dir=str(table))
                await self._fetch_folds(job, folder)
                try:
                    outcome, cpu_s, peak_bytes = await self._processes.run(here, folder, report)
                    await may_end()
                except asyncio.CancelledError:
                    if (within_s := keep_s()) > 0:
                        self.kept = await self._keep(job, folder, within_s)
                    raise
            if isinstance(outcome, Failure):
                return outcome
            self.is_handing_in = True
            try:
                return await self._store(job, folder, outcome, cpu_s, peak_bytes)
            finally:
                self.is_handing_in = False

    async def _fetch_folds(self, job: TrialJob, folder: Path) -> None:
        """Lays out what an earlier attempt has fitted. What can't be had is fitted again."""
        if not job.checkpoint_sha256:
            return
        archive = folder / checkpoints.ARCHIVE_FILE
        try:
            async with asyncio.timeout(FETCH_S):
                with archive.open("wb") as file:
                    async for data in self._blobs.read(job.checkpoint_sha256, 0):
                        file.write(data)
            await asyncio.to_thread(checkpoints.unpack, archive, folder)
        except (AllotmentError, TimeoutError) as error:
            log.info("no checkpoint", extra={"trial": job.trial, "error": str(error)})
        archive.unlink(missing_ok=True)

    async def _keep(self, job: TrialJob, folder: Path, within_s: float) -> Kept:
        """Stores the fitted folds of an attempt that was stopped, if that is done in time."""
        try:
            async with asyncio.timeout(within_s):
                archive = await asyncio.to_thread(checkpoints.pack, folder)
                if archive is None:
                    return Kept()
                sha256 = await self._blobs.put(archive, checkpoints.owner_of(job.trial))
                return Kept(sha256, *checkpoints.count(folder))
        except (AllotmentError, TimeoutError, OSError) as error:
            log.info("checkpoint not kept", extra={"trial": job.trial, "error": str(error)})
            return Kept()

    async def _store(
        self, job: TrialJob, folder: Path, finished: Finished, cpu_s: float, peak_bytes: int
    ) -> Result:
        graph, reference, predictions = await asyncio.gather(
            *(
                self._blobs.put(folder / name, job.trial)
                for name in (finished.graph, finished.reference, finished.predictions)
            )
        )
        return Result(
            score=finished.score,
            metrics=finished.metrics,
            fit_s=finished.fit_s,
            cpu_s=cpu_s,
            peak_memory_bytes=peak_bytes,
            graph_sha256=graph,
            reference_sha256=reference,
            predictions_sha256=predictions,
            fold_count=finished.fold_count,
            validation_row_count=finished.validation_row_count,
        )


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True, mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _failed(error: AllotmentError) -> Failure:
    """Data that is gone or damaged stays so; anything else may go better elsewhere."""
    final = error.kind in (ErrorKind.NOT_FOUND, ErrorKind.DATA_LOSS, ErrorKind.INVALID_ARGUMENT)
    cause = Cause.REFUSED if final else Cause.CRASH
    return Failure(cause=cause, reason=error.reason, message=error.message)
