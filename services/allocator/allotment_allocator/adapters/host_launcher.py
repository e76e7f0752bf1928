"""Trainers as processes of this machine.

One host process (`python -m allotment_trainer.host`) has imported what training needs and forks a
trainer in milliseconds. It is told what to do by lines of JSON on its stdin and answers on its
stdout; it ends when its stdin does, and everything that it has forked with it. When it dies, the
trainers are killed and confirmed gone before it is started again.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allotment_allocator.adapters.process_journal import (
    ProcessId,
    ProcessJournal,
    confirm_gone,
)
from allotment_allocator.domain.ports import Trainer, TrainerExit, TrainerOrder, TrainerState
from allotment_core import processes
from allotment_core.clock import Clock

log = logging.getLogger(__name__)

LINE_LIMIT_BYTES = 1 << 20
UNREAD_LIMIT_BYTES = 1 << 20
"""A host that leaves so much unread is taken for stuck."""
CONFIRM_S = 5.0
CLOSE_S = 4.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
HEALTHY_S = 30.0
KILL_DIRECTLY_AFTER_S = 2.0
KILL_HOST_AFTER_S = 6.0
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


@dataclass(slots=True)
class _Known:
    trainer: Trainer
    process: ProcessId | None = None
    kill_asked_s: float | None = None


async def spawn_host(command: Sequence[str]) -> Process:
    """Starts a host, which needs seconds until it is ready. Raises: OSError."""
    # In the process group of the server, as all of its processes are.
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=LINE_LIMIT_BYTES,
        env={**os.environ, **QUIET},
    )


class HostLauncher:
    """Satisfies `domain.ports.Launcher`. `start` returns at once, `close` leaves nothing behind."""

    def __init__(
        self,
        command: Sequence[str],
        work_dir: Path,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
        first_host: Process | None = None,
        server_ca: Path | None = None,
    ) -> None:
        """`first_host`: a host that `spawn_host` started ahead; later ones are started here.
        `server_ca`: the authority (PEM) that trainers accept their server's certificate from.
        """
        self._command = tuple(command)
        self._first_host = first_host
        self._server_ca = server_ca
        self._work_dir = work_dir
        self._clock = clock
        self.on_change = on_change
        self._journal = ProcessJournal(work_dir / "processes.jsonl")
        self._known: dict[str, _Known] = {}
        # Replaced as a whole: transactions read it in the database's threads.
        self._seen: tuple[Trainer, ...] = ()
        self._exits: list[TrainerExit] = []
        self._host: Process | None = None
        self._ready = False
        self._obstacle = "the trainer host is loading its libraries"
        self._last_words: deque[str] = deque(maxlen=20)
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    # What is there

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def obstacle(self) -> str:
        return self._obstacle

    def trainers(self) -> Sequence[Trainer]:
        return self._seen

    def take_exits(self) -> Sequence[TrainerExit]:
        exits, self._exits = self._exits, []
        return exits

    def resident_bytes(self, trainer_id: str) -> int:
        known = self._known.get(trainer_id)
        return known.process.resident_bytes if known and known.process else 0

    # What to do

    def launch(self, order: TrainerOrder) -> None:
        trainer = Trainer(
            trainer_id=order.trainer_id,
            tenant=order.lease.tenant,
            slot_count=order.slot_count,
            place=order.place,
            lease=order.lease,
            epoch=order.epoch,
            state=TrainerState.STARTING,
            since_s=self._clock.monotonic(),
        )
        self._known[order.trainer_id] = _Known(trainer)
        self._note()
        self._folder(order.trainer_id).mkdir(parents=True, exist_ok=True)
        order.cache_dir.mkdir(parents=True, exist_ok=True)
        self._say("start", self._message(order))

    def hand_over(self, order: TrainerOrder) -> None:
        known = self._known[order.trainer_id]
        if known.trainer.tenant != order.lease.tenant:
            raise ValueError(f"{order.trainer_id} belongs to {known.trainer.tenant}")
        known.trainer = replace(known.trainer, lease=order.lease, epoch=order.epoch)
        self._move(known, TrainerState.RUNNING)
        self._say("lease", self._message(order))

    def stop(self, trainer_id: str, grace_s: float) -> None:
        known = self._known.get(trainer_id)
        if known is not None and known.trainer.state is not TrainerState.LEAVING:
            self._move(known, TrainerState.LEAVING)
            self._say("stop", {"id": trainer_id, "grace_s": grace_s})

    def kill(self, trainer_id: str) -> None:
        known = self._known.get(trainer_id)
        if known is None:
            return
        now_s = self._clock.monotonic()
        if known.kill_asked_s is None:
            known.kill_asked_s = now_s
            self._move(known, TrainerState.LEAVING)
            self._say("kill", {"id": trainer_id})
        elif now_s - known.kill_asked_s > KILL_HOST_AFTER_S:
            log.error("trainer host does not end a trainer", extra={"trainer": trainer_id})
            self._kill_host()
        elif now_s - known.kill_asked_s > KILL_DIRECTLY_AFTER_S and known.process:
            known.process.kill()

    def _message(self, order: TrainerOrder) -> Mapping[str, Any]:
        return {
            "id": order.trainer_id,
            "tenant": str(order.lease.tenant),
            "server": order.server,
            "token": order.token,
            "lease": str(order.lease),
            "epoch": order.epoch,
            "threads": order.threads,
            "memory_bytes": order.memory_bytes,
            "cache_dir": str(order.cache_dir),
            "work_dir": str(self._folder(order.trainer_id)),
            "ca": str(self._server_ca) if self._server_ca else None,
        }

    def _folder(self, trainer_id: str) -> Path:
        return self._work_dir / "trainers" / trainer_id

    def _move(self, known: _Known, state: TrainerState) -> None:
        known.trainer = replace(known.trainer, state=state, since_s=self._clock.monotonic())
        self._note()

    def _note(self) -> None:
        self._seen = tuple(known.trainer for known in self._known.values())

    def _say(self, what: str, message: Mapping[str, Any]) -> None:
        stdin = self._host.stdin if self._host else None
        if stdin is None or stdin.is_closing():
            return  # Its trainers are about to be reported as gone.
        if stdin.transport.get_write_buffer_size() > UNREAD_LIMIT_BYTES:
            log.error("trainer host does not read its orders")
            self._kill_host()
            return
        stdin.write(json.dumps({what: message}).encode() + b"\n")

    # The host's life

    def start(self) -> None:
        """Starts the host in the background, and again whenever it ends."""
        self._task = asyncio.create_task(self._keep_host(), name="trainer host")

    async def close(self) -> None:
        """Ends the host and every trainer; returns when they are gone."""
        self._closing = True
        self._ready = False
        if self._host is not None and self._host.stdin is not None:
            self._host.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._host.wait()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._kill_host()
        if self._host is not None:
            await self._host.wait()
        await self._bury()
        self._journal.clear()

    async def _keep_host(self) -> None:
        pause_s = FIRST_PAUSE_S
        failures = 0
        await asyncio.to_thread(self._work_dir.mkdir, parents=True, exist_ok=True)
        while not self._closing:
            await self._clear_leftovers()
            began_s = self._clock.monotonic()
            how = await self._run_host()
            if self._closing:
                return
            self._ready = False
            await self._bury()
            if self._clock.monotonic() - began_s >= HEALTHY_S:
                pause_s, failures = FIRST_PAUSE_S, 0
            failures += 1
            words = " | ".join(self._last_words)[-1000:]
            self._obstacle = f"the trainer host ended ({how}) and is being started again" + (
                f"; it has failed {failures} times, its last words: {words}" if failures > 2 else ""
            )
            log.error("trainer host ended", extra={"how": how, "last_words": words})
            self.on_change()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _clear_leftovers(self) -> None:
        """Processes and folders of an earlier host are gone before the next one starts."""
        left = await confirm_gone(self._journal.processes(), CONFIRM_S)
        if left:
            log.error("old trainers do not end", extra={"pids": [p.pid for p in left]})
            return  # They stay in the journal and are tried again with the next host.
        self._journal.clear()
        await asyncio.to_thread(shutil.rmtree, self._work_dir / "trainers", ignore_errors=True)

    async def _run_host(self) -> str:
        """Starts the host and listens until it ends; how it ended."""
        try:
            host, self._first_host = self._first_host, None
            if host is None:
                host = await spawn_host(self._command)
        except OSError as e:
            return f"it could not be started: {e}"
        self._host = host
        self._write_down(host.pid)
        words = asyncio.create_task(self._hear_words(host))
        try:
            await self._listen(host)
        finally:
            self._kill_host()
            status = await host.wait()
            words.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await words
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    async def _listen(self, host: Process) -> None:
        assert host.stdout is not None
        while True:
            try:
                line = await host.stdout.readline()
            except ValueError:
                log.error("trainer host wrote a line that is too long")
                return
            if not line:
                return
            try:
                [(what, message)] = json.loads(line).items()
                self._heed(what, message)
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("trainer host wrote what is no message", extra={"line": line[:200]})
            self.on_change()

    async def _hear_words(self, host: Process) -> None:
        """Keeps the last lines of its stderr and passes all on to the log."""
        assert host.stderr is not None
        while True:
            try:
                line = await host.stderr.readline()
            except ValueError:
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text)
            log.info("trainer host says", extra={"line": text})

    def _heed(self, what: str, message: Mapping[str, Any]) -> None:
        if what == "ready":
            self._ready = True
            self._obstacle = "the trainer host is busy"
            return
        known = self._known.get(str(message["id"]))
        if known is None:
            return
        state = known.trainer.state
        if what == "started":
            known.process = ProcessId.of(int(message["pid"]))
            self._write_down(int(message["pid"]))
            if state is TrainerState.STARTING:
                self._move(known, TrainerState.RUNNING)
        elif what == "idle":
            if state is not TrainerState.LEAVING:
                self._move(known, TrainerState.IDLE)
        elif what == "exited":
            cause = f"{message.get('cause') or 'ended'} (status {message.get('status')})"
            self._forget(known, cause, str(message.get("log_tail") or ""))
        else:
            log.warning("trainer host said something unknown", extra={"what": what[:80]})

    def _forget(self, known: _Known, cause: str, log_tail: str) -> None:
        trainer_id = known.trainer.trainer_id
        del self._known[trainer_id]
        self._note()
        self._exits.append(TrainerExit(trainer=known.trainer, cause=cause, log_tail=log_tail))
        asyncio.get_running_loop().run_in_executor(
            None, lambda: shutil.rmtree(self._folder(trainer_id), ignore_errors=True)
        )

    async def _bury(self) -> None:
        """After the host's end: its trainers are ended too and reported as gone."""
        processes = [k.process for k in self._known.values() if k.process is not None]
        left = await confirm_gone(processes, CONFIRM_S)
        if left:
            log.error("trainers outlive their host", extra={"pids": [p.pid for p in left]})
        for known in tuple(self._known.values()):
            if known.process is None or known.process not in left:
                self._forget(known, "the trainer host ended", "")
            else:
                self._move(known, TrainerState.LEAVING)

    def _write_down(self, pid: int) -> None:
        process = ProcessId.of(pid)
        if process is not None:
            self._journal.add(process)

    def _kill_host(self) -> None:
        if self._host is not None:
            processes.kill(self._host)
