"""Builds in throw-away processes, one of which is always warm."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from allotment_core import processes
from allotment_exporter.domain.builds import BuildJob, BuildOutcome, Failed
from allotment_exporter.domain.exports import Problem, Stage
from allotment_exporter.domain.lines import BadLine, job_line, read_line

log = logging.getLogger(__name__)

_LINE_LIMIT_BYTES = 8 << 20
_LOG_TAIL_BYTES = 4096
_START_LIMIT_S = 60.0
_START_ERRORS = (BadLine, TimeoutError, OSError)
_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV")
"""Of the server's environment; whatever else it holds (tokens, addresses) is not for a child."""


class _Child:
    """One process, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._log_tail = b""
        self._log_reader = asyncio.create_task(self._read_log())

    @classmethod
    async def start(cls, folder: Path) -> "_Child":
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "allotment_exporter.child",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env=environment,
            limit=_LINE_LIMIT_BYTES,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self) -> None:
        """Returns when it waits for its job. Raises: BadLine when it ended instead."""
        async with asyncio.timeout(_START_LIMIT_S):
            line = await self._read_line()
        if not line or read_line(line) is not None:
            raise BadLine("the process ended before it was ready")

    async def run(self, job: BuildJob, report: Callable[[Stage], None]) -> BuildOutcome | None:
        """What it answers; None when it ended without an answer. Raises: BadLine, TimeoutError."""
        assert self._process.stdin is not None
        async with asyncio.timeout(job.limits.wall_s):
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(job_line(job))
                await self._process.stdin.drain()
            while line := await self._read_line():
                said = read_line(line)
                if isinstance(said, Stage):
                    report(said)
                elif said is not None:
                    return said
            await self._process.wait()
        return None

    async def end(self) -> int:
        """Kills it where needed; the exit status. Whoever cancels this still gets it killed."""
        processes.kill(self._process)
        status = await self._process.wait()
        await asyncio.wait({self._log_reader}, timeout=1)
        self._log_reader.cancel()
        return status

    @property
    def log_tail(self) -> str:
        return self._log_tail.decode(errors="replace")

    async def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:
            raise BadLine(f"a line of more than {_LINE_LIMIT_BYTES} bytes") from None
        return line if line.endswith(b"\n") else b""

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(65536):
            self._log_tail = (self._log_tail + chunk)[-_LOG_TAIL_BYTES:]


class ChildProcessBuilder:
    """The Builder port: each build has its own process, started before it is needed."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where children stand; it has to exist before `start`."""
        self._folder = folder
        self._next: asyncio.Task[_Child] | None = None
        self._stopped = False
        self._children: set[_Child] = set()

    @property
    def pids(self) -> set[int]:
        """Processes that are alive."""
        return {child.pid for child in self._children if child.alive}

    async def start(self) -> None:
        """Begins to warm the first process; does not wait for it."""
        self._stopped = False
        self._warm()

    async def stop(self) -> None:
        """Ends every process."""
        self._stopped = True
        task, self._next = self._next, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(self._end(child) for child in list(self._children)))

    async def build(self, job: BuildJob, report: Callable[[Stage], None]) -> BuildOutcome:
        """Runs a job in the warm process while the next one warms up."""
        try:
            child = await self._take()
        except _START_ERRORS as error:
            log.error("no export process could be started", extra={"error": str(error)})
            return _failed(
                "NO_PROCESS",
                "the process that builds artefacts could not be started; the server's log says why",
            )
        outcome: BuildOutcome | None = None
        try:
            outcome = await child.run(job, report)
        except TimeoutError:
            outcome = _failed(
                "TIMEOUT",
                f"the export took longer than {job.limits.wall_s:g} s; export a smaller model",
            )
        except BadLine as error:
            log.warning("export process misbehaved", extra={"error": str(error)})
            outcome = _failed("CRASHED", "the process that built the artefact garbled its answer")
        finally:
            status = await self._end(child)
            if outcome is None:
                log.warning(
                    "export process died", extra={"status": status, "log_tail": child.log_tail}
                )
        return outcome or _death(status, job)

    def _warm(self) -> None:
        if not self._stopped:
            self._next = asyncio.create_task(self._start())

    async def _start(self) -> _Child:
        child = await _Child.start(self._folder)
        self._children.add(child)
        try:
            await child.ready()
        except BaseException as error:
            await self._end(child)
            if not isinstance(error, asyncio.CancelledError):
                log.warning("export process did not start", extra={"log_tail": child.log_tail})
            raise
        return child

    async def _take(self) -> _Child:
        """The warm child, or a fresh one where it died before or while it waited."""
        task, self._next = self._next, None
        try:
            child = await self._warm_child(task) if task is not None else None
            return child or await self._start()
        finally:
            self._warm()

    async def _warm_child(self, task: "asyncio.Task[_Child]") -> _Child | None:
        try:
            child = await task
        except _START_ERRORS:
            return None
        if child.alive:
            return child
        await self._end(child)
        return None

    async def _end(self, child: _Child) -> int:
        status = await child.end()
        self._children.discard(child)
        return status


def _failed(reason: str, message: str) -> Failed:
    return Failed(problem=Problem(reason=reason, message=message))


def _death(status: int, job: BuildJob) -> Failed:
    """Why a process ended without an answer."""
    if status == -signal.SIGXCPU:
        return _failed(
            "TIMEOUT",
            f"the export took more than {job.limits.cpu_s} s of processor time; "
            "export a smaller model",
        )
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return _failed(
            "CRASHED",
            f"the process that built the artefact died (signal {name}); the graph crashes "
            f"onnxruntime, or needs more than {job.limits.memory_bytes} bytes of memory",
        )
    return _failed(
        "CRASHED",
        f"the process that built the artefact ended without an answer (status {status}); "
        "the server's log says why",
    )
