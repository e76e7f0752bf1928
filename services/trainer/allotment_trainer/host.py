"""`python -m allotment_trainer.host`: forks the trainers of a machine.

Imports what trials need once, stays without threads and gRPC, and obeys lines of JSON on stdin:

    {"start": {"id", "tenant", "cache_dir", "work_dir", and a lease}}
    {"lease": {"id", and a lease}}                      an idle trainer's next one
    {"stop": {"id", "grace_s"}}
    {"kill": {"id"}}

A lease is "server", "token", "lease", "epoch", "threads", "memory_bytes". The host says on stdout:

    {"ready": {"pid"}}
    {"started": {"id", "pid"}}
    {"idle": {"id", "ending"}}                          its session is over; it waits for a lease
    {"exited": {"id", "status", "cause", "log_tail"}}

A cause is STOPPED, KILLED, REFUSED, FAILED or CRASHED.

Logs go to stderr. When stdin ends, its parent dies, or SIGTERM comes, it ends with everything below
it.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from allotment_core.errors import InvalidArgument
from allotment_core.events import configure_logging
from allotment_trainer import agent
from allotment_trainer.agent import Start
from allotment_trainer.config import PREFIX
from allotment_trainer.domain.reports import LOG_TAIL_BYTES
from allotment_trainer.processes import lines, preload
from allotment_trainer.processes.lifeline import (
    adopt_orphans,
    children_of,
    ignore_keyboard,
    kill,
    kill_tree,
)
from allotment_trainer.processes.trial_child import TrialFunction

log = logging.getLogger(__name__)

FAMILIES = f"{PREFIX}FAMILIES"
"""Modules of further model families, separated by commas; a host has no other setting."""
TICK_S = 0.5
STOP_SLACK_S = 1.0
"""What a trainer has beyond its grace before it is killed."""
TERM_GRACE_S = 1.0
END_S = 3.0


class _Trainer:
    """A trainer's process, as its host knows it."""

    def __init__(self, start: Start, pid: int, control: socket.socket, log_fd: int) -> None:
        self.id = start.trainer_id
        self.tenant = start.tenant
        self.pid = pid
        self.control = control
        self.messages = lines.LineReader(control.fileno())
        self.log_fd = log_fd
        self.tail = lines.Tail(LOG_TAIL_BYTES)
        self.open_fds = {control.fileno(), log_fd}
        self.cause = ""
        self.kill_at: float | None = None

    def tell(self, message: dict[str, Any]) -> None:
        agent.say(self.control, message)

    def kill(self, cause: str) -> None:
        self.cause = self.cause or cause
        kill(self.pid)

    def close(self) -> None:
        self.control.close()
        os.close(self.log_fd)


class Host:
    """The loop of the host's one thread."""

    def __init__(
        self, trial: TrialFunction, offer: preload.Offer, orders_fd: int, answers_fd: int
    ) -> None:
        self._trial = trial
        self._offer = offer
        self._orders = lines.LineReader(orders_fd)
        self._orders_fd = orders_fd
        self._answers_fd = answers_fd
        self._parent_pid = os.getppid()
        self._trainers: dict[str, _Trainer] = {}
        self._terminated = False
        self._wake_r, wake_w = os.pipe()
        for descriptor in (self._wake_r, wake_w):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until stdin ends, the parent dies or SIGTERM comes. Nothing is left below it then."""
        self._say("ready", pid=os.getpid())
        while not self._is_over():
            self._step(TICK_S)
        self._end()

    def _on_term(self, *_: object) -> None:
        self._terminated = True

    def _is_over(self) -> bool:
        return self._terminated or self._orders.at_end or os.getppid() != self._parent_pid

    def _step(self, timeout_s: float) -> None:
        watched = {self._wake_r}
        if not self._orders.at_end:
            watched.add(self._orders_fd)
        for trainer in self._trainers.values():
            watched |= trainer.open_fds
        ready = set(select.select(watched, [], [], timeout_s)[0])
        if self._wake_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_r, 4096)
        for trainer in self._trainers.values():
            self._hear(trainer, ready)
        self._reap()
        self._kill_late()
        if self._orders_fd in ready:
            for message in self._orders.read():
                self._obey(message)

    # Orders

    def _obey(self, message: Mapping[str, Any]) -> None:
        for what, values in message.items():
            trainer_id = str(values.get("id", "")) if isinstance(values, dict) else ""
            trainer = self._trainers.get(trainer_id)
            if what == "start":
                self._start(trainer_id, values)
            elif trainer is None:
                log.warning("order for no trainer", extra={"order": what, "id": trainer_id})
            elif what == "lease":
                trainer.tell({"lease": values})
            elif what == "stop":
                grace_s = float(values.get("grace_s", 0.0))
                trainer.cause = trainer.cause or "STOPPED"
                trainer.kill_at = time.monotonic() + grace_s + STOP_SLACK_S
                trainer.tell({"stop": {"grace_s": grace_s}})
            elif what == "kill":
                trainer.kill("KILLED")
            else:
                log.warning("unknown order", extra={"order": what})

    def _start(self, trainer_id: str, values: Mapping[str, Any]) -> None:
        try:
            start = Start.from_json(values)
            if trainer_id in self._trainers:
                raise InvalidArgument(
                    f"trainer {trainer_id} is there already", reason="INVALID_START"
                )
            trainer = self._fork(start)
        except InvalidArgument as error:
            log.error("trainer refused", extra={"id": trainer_id, "error": error.message})
            self._say_exited(trainer_id, 64, "REFUSED", error.message)
        except OSError as error:
            log.error("trainer not started", extra={"id": trainer_id, "error": str(error)})
            self._say_exited(trainer_id, 71, "FAILED", f"no process: {error.strerror}")
        else:
            self._trainers[trainer_id] = trainer
            self._say("started", id=trainer_id, pid=trainer.pid)

    def _fork(self, start: Start) -> _Trainer:
        ours, theirs = socket.socketpair()
        log_r, log_w = os.pipe()
        parent_pid = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                agent.run(start, self._trial, self._offer, theirs, log_w, parent_pid)
        except OSError:
            ours.close()
            os.close(log_r)
            raise
        finally:
            theirs.close()
            os.close(log_w)
        ours.setblocking(False)
        os.set_blocking(log_r, False)
        return _Trainer(start, pid, ours, log_r)

    # Trainers

    def _hear(self, trainer: _Trainer, ready: set[int]) -> None:
        control_fd = trainer.control.fileno()
        if control_fd in ready:
            for message in trainer.messages.read():
                if "idle" in message:
                    self._say("idle", id=trainer.id, **message["idle"])
            if trainer.messages.at_end:
                trainer.open_fds.discard(control_fd)
        if trainer.log_fd in ready and not self._pass_log(trainer):
            trainer.open_fds.discard(trainer.log_fd)

    def _pass_log(self, trainer: _Trainer) -> bool:
        """Reads a piece of a trainer's log; False at its end."""
        try:
            data = os.read(trainer.log_fd, 1 << 16)
        except BlockingIOError:
            return True
        trainer.tail.add(data)
        with contextlib.suppress(OSError):
            os.write(2, data)
        return bool(data)

    def _kill_late(self) -> None:
        now = time.monotonic()
        for trainer in self._trainers.values():
            if trainer.kill_at is not None and now > trainer.kill_at:
                trainer.kill("KILLED")

    def _reap(self) -> bool:
        """Waits for what has ended, what trainers left behind included; False: nothing is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            trainer = next((t for t in self._trainers.values() if t.pid == pid), None)
            if trainer is not None:
                self._bury(trainer, os.waitstatus_to_exitcode(status))

    def _bury(self, trainer: _Trainer, status: int) -> None:
        del self._trainers[trainer.id]
        while select.select([trainer.log_fd], [], [], 0)[0] and self._pass_log(trainer):
            pass
        if trainer.messages.at_end is False:
            self._hear(trainer, {trainer.control.fileno()})
        trainer.close()
        cause = trainer.cause or ("CRASHED" if status < 0 else "FAILED" if status else "STOPPED")
        self._say_exited(trainer.id, status, cause, trainer.tail.text())

    # The end

    def _end(self) -> None:
        """Ends every trainer: after SIGTERM with a little grace, else at once (nobody listens any
        more).
        """
        if self._terminated and not self._orders.at_end:
            for trainer in self._trainers.values():
                trainer.tell({"stop": {"grace_s": TERM_GRACE_S}})
                trainer.cause = trainer.cause or "STOPPED"
            self._wait_for_all(TERM_GRACE_S)
        for trainer in self._trainers.values():
            kill_tree(trainer.pid)
        self._wait_for_all(END_S)
        for pid in children_of(os.getpid()):
            kill(pid)

    def _wait_for_all(self, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while self._reap() and time.monotonic() < give_up:
            self._step(0.05)
            if not self._trainers:
                for pid in children_of(os.getpid()):
                    kill(pid)

    # Answers

    def _say(self, what: str, **values: Any) -> None:
        # Who doesn't read has ended its end of stdin, too.
        with contextlib.suppress(OSError):
            lines.write(self._answers_fd, {what: values})

    def _say_exited(self, trainer_id: str, status: int, cause: str, log_tail: str) -> None:
        self._say("exited", id=trainer_id, status=status, cause=cause, log_tail=log_tail)


def serve(trial: TrialFunction, offer: preload.Offer) -> None:
    """Runs a host on stdin and stdout, after the imports."""
    ignore_keyboard()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    adopt_orphans()
    orders_fd, answers_fd = os.dup(0), os.dup(1)
    # Whatever a library prints is no answer.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.set_blocking(orders_fd, False)
    Host(trial, offer, orders_fd, answers_fd).serve()


def main() -> None:
    preload.prepare_environment()
    configure_logging("trainer")
    preload.load()
    preload.register(name for name in os.environ.get(FAMILIES, "").split(",") if name.strip())
    preload.load_families()
    preload.forget_openmp_folder()
    serve(preload.trial_function(), preload.offer())


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
