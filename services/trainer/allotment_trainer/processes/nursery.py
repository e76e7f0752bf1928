"""Forks a process for each trial, watches it, and says how it ended.

A process with one thread and no gRPC, forked by the agent before it has either. Messages from the
agent:
{"run": job, "folder": path}, {"kill": true}. To the agent: {"progress": {...}}, {"ended": {...}},
in that order.
"""

import os
import resource
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

from allotment_trainer.domain.attempts import KilledFor, clip_tail
from allotment_trainer.domain.job import TrialJob
from allotment_trainer.domain.reports import LOG_TAIL_BYTES
from allotment_trainer.processes import limits, lines, preload, trial_child
from allotment_trainer.processes.lifeline import (
    adopt_orphans,
    children_of,
    close_all_but,
    die_with,
    ignore_keyboard,
    kill,
    kill_tree,
)
from allotment_trainer.processes.trial_child import TrialFunction

WATCH_INTERVAL_S = 0.05
DEADLINE_GRACE_S = 0.5
"""After the deadline a trial may still end by itself (a fold's last tree, writing its failure)."""


def start(trial: TrialFunction) -> tuple[int, socket.socket]:
    """Forks a nursery; its pid and the agent's end of its socket."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            ours.close()
            _settle(theirs.fileno(), parent)
            Nursery(trial, theirs.fileno()).serve()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    return pid, ours


def _settle(control_fd: int, parent_pid: int) -> None:
    signal.set_wakeup_fd(-1)
    ignore_keyboard()
    # The agent decides when its trial ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with(parent_pid)
    adopt_orphans()
    close_all_but([control_fd])


class _Child:
    """A running trial, with the read ends of its two pipes."""

    def __init__(self, pid: int, job: TrialJob, report_fd: int, log_fd: int) -> None:
        self.pid = pid
        self.job = job
        self.born_bytes = limits.own_memory_bytes(pid)
        self.peak_bytes = 0
        self.killed_for: KilledFor | None = None
        self.report_fd = report_fd
        self.log_fd = log_fd
        self.reports = lines.LineReader(report_fd)
        self.tail = lines.Tail(LOG_TAIL_BYTES)
        self.open_fds = {report_fd, log_fd}

    def end(self, why: KilledFor) -> None:
        if self.killed_for is None:
            self.killed_for = why
        kill_tree(self.pid)


class Nursery:
    """The loop. One trial at a time."""

    def __init__(self, trial: TrialFunction, control_fd: int) -> None:
        self._trial = trial
        self._control_fd = control_fd
        self._control = lines.LineReader(control_fd)
        self._child: _Child | None = None
        self._wake_r, wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(wake_w, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the agent is gone."""
        while not self._control.at_end:
            ready = self._wait()
            if self._wake_r in ready:
                _drain(self._wake_r)
            if self._child is not None:
                self._listen(self._child, ready)
                self._watch(self._child)
            self._reap()
            if self._control_fd in ready:
                for message in self._control.read():
                    self._obey(message)
        if self._child is not None:
            self._child.end(KilledFor.ASKED)

    def _wait(self) -> set[int]:
        watched = [self._control_fd, self._wake_r]
        if self._child is None:
            return set(select.select(watched, [], [])[0])
        watched += self._child.open_fds
        return set(select.select(watched, [], [], WATCH_INTERVAL_S)[0])

    def _obey(self, message: dict[str, Any]) -> None:
        if "run" in message and self._child is None:
            self._run(TrialJob.from_json(message["run"]), Path(message["folder"]))
        elif "kill" in message and self._child is not None:
            self._child.end(KilledFor.ASKED)

    def _run(self, job: TrialJob, folder: Path) -> None:
        preload.load_for(job.family.rpartition("/")[2])
        report_r, report_w = os.pipe()
        log_r, log_w = os.pipe()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            for descriptor in (report_r, report_w, log_r, log_w):
                os.close(descriptor)
            problem = f"the trainer's machine can't start a process ({error.strerror})"
            self._say_ended(status=71, problem=problem)
            return
        if pid == 0:
            trial_child.run(self._trial, job, folder, report_w, log_w, parent)
        os.close(report_w)
        os.close(log_w)
        os.set_blocking(report_r, False)
        os.set_blocking(log_r, False)
        self._child = _Child(pid, job, report_r, log_r)

    def _listen(self, child: _Child, ready: set[int]) -> None:
        if child.report_fd in ready:
            for progress in child.reports.read():
                lines.write(self._control_fd, {"progress": progress})
            if child.reports.at_end:
                child.open_fds.discard(child.report_fd)
        if child.log_fd in ready and not _take(child.log_fd, child.tail):
            child.open_fds.discard(child.log_fd)

    def _watch(self, child: _Child) -> None:
        used = max(0, limits.own_memory_bytes(child.pid) - child.born_bytes)
        child.peak_bytes = max(child.peak_bytes, used)
        deadline = child.job.deadline_monotonic
        if used > child.job.memory_bytes:
            child.end(KilledFor.MEMORY)
        elif deadline is not None and time.monotonic() > deadline + DEADLINE_GRACE_S:
            child.end(KilledFor.DEADLINE)

    def _reap(self) -> None:
        """Waits for whatever has ended, orphans of trials included."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._child is not None and pid == self._child.pid:
                self._finish(self._child, os.waitstatus_to_exitcode(status), usage)

    def _finish(self, child: _Child, status: int, usage: resource.struct_rusage) -> None:
        self._child = None
        _end_orphans()
        while child.report_fd in child.open_fds and (ready := _ready(child.report_fd)):
            self._listen(child, ready)
        while _take(child.log_fd, child.tail):
            pass
        os.close(child.report_fd)
        os.close(child.log_fd)
        self._say_ended(
            status=status,
            killed_for=child.killed_for,
            peak_memory_bytes=child.peak_bytes,
            cpu_s=usage.ru_utime + usage.ru_stime,
            log_tail=clip_tail(child.tail.text()),
        )

    def _say_ended(
        self,
        *,
        status: int,
        killed_for: KilledFor | None = None,
        peak_memory_bytes: int = 0,
        cpu_s: float = 0.0,
        log_tail: str = "",
        problem: str = "",
    ) -> None:
        ended = {
            "status": status,
            "killed_for": killed_for.value if killed_for else None,
            "peak_memory_bytes": peak_memory_bytes,
            "cpu_s": cpu_s,
            "log_tail": log_tail,
            "problem": problem,
        }
        lines.write(self._control_fd, {"ended": ended})


def _end_orphans() -> None:
    """Kills what a trial's process has left behind."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    for orphan in children_of(os.getpid()):
        kill(orphan)


def _ready(descriptor: int) -> set[int]:
    return set(select.select([descriptor], [], [], 0)[0])


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return


def _take(descriptor: int, tail: lines.Tail) -> bool:
    """Reads once into the tail; False when there is nothing now."""
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return False
    tail.add(data)
    return bool(data)
