"""Parse jobs in child processes, one process per job, with a few started ahead."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allotment_core import processes
from allotment_core.errors import (
    CLASS_OF_KIND,
    AllotmentError,
    ErrorKind,
    ResourceExhausted,
    Unavailable,
)
from allotment_dataset.domain.parsing import ImportJob, ImportOutcome, InspectJob, Progress
from allotment_dataset.domain.ports import Spool
from allotment_dataset.domain.table import Inspection
from allotment_dataset.domain.table_json import from_json, to_json

log = logging.getLogger(__name__)

_ANSWER_BYTES = 64 << 20
_LOG_TAIL_BYTES = 4096
_KEPT_VARIABLES = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildLimits:
    """What one parse child may use."""

    memory_bytes: int
    cpu_s: int
    file_bytes: int
    wall_s: float


_REFILL_DELAY_S = 2.0
"""An import is followed by the first trials on its rows: they go first."""


class ParseChildren:
    """Starts parse children. Each does one job on one tenant's file and ends.

    A child gets no secrets: of the environment only what Python needs. It ends when this process
    does, when its job is given up, and at its limits. Children stay in this process's group.
    """

    def __init__(
        self, spool: Spool, temporary: Path, limits: ChildLimits, *, warm: int, concurrency: int
    ) -> None:
        self._spool = spool
        self._limits = limits
        self._warm_count = warm
        self._slots = asyncio.Semaphore(concurrency)
        self._warm: list[asyncio.subprocess.Process] = []
        self._refills: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._temporary = temporary

    def start(self) -> None:
        """Begins to start children ahead, in the background."""
        self._refill()

    async def stop(self) -> None:
        self._stopped = True
        for task in self._refills:
            task.cancel()
        await asyncio.gather(*self._refills, return_exceptions=True)
        for child in self._warm:
            await _end(child)
        self._warm.clear()

    async def read_table(self, job: ImportJob, progress: Progress) -> ImportOutcome:
        return from_json(ImportOutcome, await self._run("import", to_json(job), progress))

    async def inspect(self, job: InspectJob) -> Inspection:
        return from_json(Inspection, await self._run("inspect", to_json(job), lambda *_: None))

    async def _run(self, kind: str, job: str, progress: Progress) -> bytes:
        """The child's answer.

        Raises: what it says went wrong; Unavailable when it died without a word.
        """
        async with self._slots:
            folder = await self._spool.folder("answer")
            child = await self._take()
            try:
                async with asyncio.timeout(self._limits.wall_s):
                    return await self._talk(child, kind, job, folder / "answer.json", progress)
            except TimeoutError:
                raise ResourceExhausted(
                    f"reading the file took longer than {self._limits.wall_s:g} s; split it, or "
                    "raise "
                    "ALLOTMENT_DATASET_PARSE_WALL_S",
                    reason="PARSE_LIMIT",
                ) from None
            finally:
                await _end(child)
                await self._spool.drop(folder)
                self._refill(_REFILL_DELAY_S)

    async def _talk(
        self,
        child: asyncio.subprocess.Process,
        kind: str,
        job: str,
        answer: Path,
        progress: Progress,
    ) -> bytes:
        assert child.stdin is not None
        assert child.stdout is not None
        request = {
            "kind": kind,
            "limits": {
                "memory_bytes": self._limits.memory_bytes,
                "cpu_s": self._limits.cpu_s,
                "file_bytes": self._limits.file_bytes,
            },
            "answer": str(answer),
            "job": json.loads(job),
        }
        log_tail = asyncio.create_task(_tail(child), name="parse log")
        try:
            with contextlib.suppress(ConnectionError):  # It died: its exit says more.
                child.stdin.write(json.dumps(request).encode() + b"\n")
                await child.stdin.drain()
            async for raw in child.stdout:
                said = json.loads(raw)
                if "error" in said:
                    raise _told(said)
                if "done" in said:
                    return await asyncio.to_thread(_read_answer, answer)
                progress(str(said["stage"]), float(said["progress"]))
            raise self._died(await child.wait(), await log_tail)
        except ValueError as e:
            raise Unavailable(
                "the parse child said something unreadable", reason="PARSE_BROKE"
            ) from e
        finally:
            log_tail.cancel()

    def _died(self, status: int, log_tail: str) -> AllotmentError:
        log.warning("parse child died", extra={"status": status, "log": log_tail})
        if status == -signal.SIGXCPU:
            return ResourceExhausted(
                f"reading the file took more than {self._limits.cpu_s} s of processor time; "
                "split it, or raise "
                "ALLOTMENT_DATASET_PARSE_CPU_S",
                reason="PARSE_LIMIT",
            )
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return Unavailable(
            f"the process that read the file ended {how}; if it happens again, the file may be "
            "damaged or too "
            "large: split it",
            reason="PARSE_BROKE",
            retry_after_s=1.0,
        )

    async def _take(self) -> asyncio.subprocess.Process:
        while self._warm:
            child = self._warm.pop(0)
            if child.returncode is None:
                return child
        return await _spawn(self._temporary)

    def _refill(self, delay_s: float = 0.0) -> None:
        if self._stopped or len(self._warm) + len(self._refills) >= self._warm_count:
            return
        task = asyncio.create_task(self._add_warm(delay_s), name="warm parse child")
        self._refills.add(task)
        task.add_done_callback(self._refills.discard)

    async def _add_warm(self, delay_s: float) -> None:
        try:
            await asyncio.sleep(delay_s)
            self._warm.append(await _spawn(self._temporary))
        except AllotmentError as e:
            log.warning("no parse child could be started ahead", extra={"reason": e.reason})


async def _spawn(temporary: Path) -> asyncio.subprocess.Process:
    """`temporary` is where it leaves what it can't remove when it is killed."""
    environment = {k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ}
    # Few threads and arenas: the child's address space is limited. A fixed threshold makes glibc
    # give large freed blocks back (its own one grows, and the heap of a large import doubles).
    environment |= {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "262144",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }
    command = (sys.executable, "-I", "-m", "allotment_dataset.parse")
    try:
        await asyncio.to_thread(temporary.mkdir, mode=0o700, parents=True, exist_ok=True)
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd="/",
        )
    except OSError as e:
        raise Unavailable(
            f"no process could be started to read the file ({e.strerror}); try again",
            reason="NO_PROCESS",
            retry_after_s=1.0,
        ) from e


async def _end(child: asyncio.subprocess.Process) -> None:
    processes.kill(child)
    if child.stdin is not None:
        child.stdin.close()
    await child.wait()


async def _tail(child: asyncio.subprocess.Process) -> str:
    """The end of what the child wrote to stderr; reading it keeps the child from blocking."""
    assert child.stderr is not None
    tail = b""
    while block := await child.stderr.read(_LOG_TAIL_BYTES):
        tail = (tail + block)[-_LOG_TAIL_BYTES:]
    return tail.decode("utf-8", "replace")


def _read_answer(path: Path) -> bytes:
    with path.open("rb") as file:
        answer = file.read(_ANSWER_BYTES + 1)
    if len(answer) > _ANSWER_BYTES:
        raise ResourceExhausted(
            f"the table's profile has more than {_ANSWER_BYTES} bytes; leave columns out",
            reason="PARSE_LIMIT",
        )
    return answer


def _told(said: dict[str, Any]) -> AllotmentError:
    error_class = CLASS_OF_KIND.get(ErrorKind(said["error"]), AllotmentError)
    return error_class(str(said["message"]), reason=str(said["reason"]))
