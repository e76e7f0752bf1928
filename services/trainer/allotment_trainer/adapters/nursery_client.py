"""The agent's end of its nursery."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from allotment_core.errors import Unavailable
from allotment_trainer.domain.attempts import Finished, KilledFor, ProcessEnd, judge
from allotment_trainer.domain.job import TrialJob
from allotment_trainer.domain.reports import Failure, Progress
from allotment_trainer.processes import lines
from allotment_trainer.processes.trial_child import RESULT_FILE


class NurseryClient:
    """TrialProcesses by a nursery that was forked before."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, ours: socket.socket) -> "NurseryClient":
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours, limit=lines.LONGEST_LINE_BYTES)
        return cls(reader, writer)

    async def run(
        self, job: TrialJob, folder: Path, report: Callable[[Progress], None]
    ) -> tuple[Finished | Failure, float, int]:
        self._send({"run": job.to_json(), "folder": str(folder)})
        try:
            end = await self._end(report)
        except asyncio.CancelledError:
            self._send({"kill": True})
            await self._end(lambda _: None)
            raise
        outcome = judge(end, _said(folder / RESULT_FILE), job.memory_bytes)
        return outcome, end.cpu_s, end.peak_memory_bytes

    def close(self) -> None:
        self._writer.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(lines.encode(message))

    async def _end(self, report: Callable[[Progress], None]) -> ProcessEnd:
        while True:
            message = await self._message()
            if "progress" in message:
                report(Progress(**message["progress"]))
            elif "ended" in message:
                ended = message["ended"]
                killed_for = ended["killed_for"]
                return ProcessEnd(
                    **{**ended, "killed_for": KilledFor(killed_for) if killed_for else None}
                )

    async def _message(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            line = b""
        if not line:
            raise Unavailable("the process that starts trials is gone", reason="NURSERY_GONE")
        return lines.decode(line) or {}


def _said(path: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
