"""Which processes an earlier life of this service started: they go before new ones start."""

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_SAME_START_S = 1.0
_POLL_S = 0.02
_COMPACT_AFTER = 200


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one with the same number by when it started."""

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """None when there is no such process (any more)."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @property
    def alive(self) -> bool:
        """Whether it is there and not a zombie."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < _SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    @property
    def resident_bytes(self) -> int:
        """Memory of it and its children."""
        try:
            process = psutil.Process(self.pid)
            family = [process, *process.children(recursive=True)]
            return sum(int(each.memory_info().rss) for each in family)
        except psutil.Error:
            return 0

    def kill(self) -> None:
        """SIGKILL, if it is still that process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)


async def confirm_gone(processes: list[ProcessId], limit_s: float) -> list[ProcessId]:
    """Kills processes and waits until they are gone; those that are still there after the limit."""
    for process in processes:
        process.kill()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    left = [p for p in processes if p.alive]
    while left and loop.time() < deadline:
        await asyncio.sleep(_POLL_S)
        left = [p for p in left if p.alive]
    return left


class ProcessJournal:
    """A file with one line for each process that was started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._added = 0

    def add(self, process: ProcessId) -> None:
        self._added += 1
        if self._added % _COMPACT_AFTER == 0:
            left = [p for p in self.processes() if p.alive]
            aside = self._path.with_suffix(".new")
            aside.write_text("".join(json.dumps(asdict(p)) + "\n" for p in left), encoding="utf-8")
            aside.replace(self._path)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(process)) + "\n")

    def processes(self) -> list[ProcessId]:
        """All that were added since `clear`."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # a line cut by a crash
                found.append(ProcessId(**json.loads(line)))
        return found

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
