"""Processes that are started again when they die."""

import asyncio
import contextlib
import ctypes
import json
import logging
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from allotment_core.processes import kill
from allotment_testkit.services.layout import Layout

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
HEALTHY_S = 5.0
MOST_STARTS = 4
"""Of one service, until all serve for the first time."""
STOP_S = 25.0
_PR_SET_PDEATHSIG = 1


class Kept:
    """One process, and the next one whenever it has ended."""

    def __init__(self, name: str, layout: Layout, on_start: Callable[[], None]) -> None:
        self.name = name
        self.starts = 0
        self._layout = layout
        self._on_start = on_start
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self) -> None:
        """SIGTERM; SIGKILL to one that does not end in time."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                log.error("a service did not end", extra={"which": self.name})
                kill(self._process)
                await self._process.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            self._process = await self._spawn()
            self.starts += 1
            self._on_start()
            status = await self._process.wait()
            if self._stopping:
                return
            if time.monotonic() - began >= HEALTHY_S:
                pause_s = FIRST_PAUSE_S
            print(f"{self.name} ended ({status}); it is started again in {pause_s:g} s", flush=True)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _spawn(self) -> Process:
        path = self._layout.log(self.name)
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as out:
            return await asyncio.create_subprocess_exec(
                *self._layout.command(self.name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._layout.environment(self.name),
                # A terminal's Ctrl-C is for the keeper alone.
                process_group=0,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )


class Keeper:
    """All of them; `processes.json` in the folder tells who is who."""

    def __init__(self, layout: Layout) -> None:
        self._path: Path = layout.folder / "processes.json"
        self.kept = [Kept(name, layout, self._note) for name in layout.processes]
        self.on_hopeless: Callable[[], None] = lambda: None
        """Called when one has been started many times."""

    def start(self) -> None:
        for each in self.kept:
            each.start()

    async def stop(self) -> None:
        # All at once: each lets its own calls end, and waits for nobody.
        await asyncio.gather(*(each.stop() for each in self.kept))

    def _note(self) -> None:
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps({each.name: each.pid for each in self.kept}))
        aside.replace(self._path)
        if any(each.starts > MOST_STARTS for each in self.kept):
            self.on_hopeless()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
