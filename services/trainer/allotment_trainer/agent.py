"""A trainer's own process: works for one lease after the other of one tenant, as its host hands
them over.

`run` is called right after the host's fork and never returns. gRPC is imported only once the
nursery is forked. Messages from the host: {"lease": {...}}, {"stop": {"grace_s": 5}}. To the host:
{"idle": {"ending": "RELEASED"}}.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from allotment_core.errors import InvalidArgument
from allotment_core.names import LeaseName, TenantName
from allotment_trainer.domain.lease import Grant
from allotment_trainer.processes import lines, nursery
from allotment_trainer.processes.lifeline import close_all_but, die_with, ignore_keyboard
from allotment_trainer.processes.preload import Offer
from allotment_trainer.processes.trial_child import TrialFunction

log = logging.getLogger(__name__)

STATUS_STOPPED = 0
STATUS_SILENT = 69
STATUS_BROKEN = 70
STATUS_OVER = 77

DEFAULT_CACHE_BYTES = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a trainer is started with."""

    trainer_id: str
    tenant: TenantName
    grant: Grant
    cache_dir: Path
    """Of this machine; the trainer keeps to a folder of its tenant in it."""
    work_dir: Path
    """The trainer's own."""
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def within(self, room_bytes: int | None) -> "Start":
        """With trials that have no more memory than there is."""
        if room_bytes is None or room_bytes >= self.grant.memory_bytes:
            return self
        return replace(self, grant=replace(self.grant, memory_bytes=room_bytes))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Start":
        """Raises: InvalidArgument (INVALID_START)."""
        try:
            tenant = TenantName.parse(values["tenant"])
            return cls(
                trainer_id=str(values["id"]),
                tenant=tenant,
                grant=grant_from_json(values, tenant),
                cache_dir=Path(values["cache_dir"]),
                work_dir=Path(values["work_dir"]),
                cache_bytes=int(values.get("cache_bytes", DEFAULT_CACHE_BYTES)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(error) from None


def grant_from_json(values: Mapping[str, Any], tenant: TenantName) -> Grant:
    """The lease in a message. Raises: InvalidArgument, also when it is another tenant's."""
    try:
        lease = LeaseName.parse(values["lease"])
        grant = Grant(
            server=str(values["server"]),
            token=str(values["token"]),
            lease=str(lease),
            epoch=int(values["epoch"]),
            threads=int(values["threads"]),
            memory_bytes=int(values["memory_bytes"]),
            ca=values.get("ca"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(error) from None
    if lease.tenant != tenant:
        raise InvalidArgument(
            f"lease {lease} is not of {tenant}: a trainer never changes its tenant",
            reason="OTHER_TENANT",
        )
    return grant


def _bad(error: Exception) -> InvalidArgument:
    return InvalidArgument(f"a lease's message lacks or garbles {error}", reason="INVALID_START")


def run(
    start: Start,
    trial: TrialFunction,
    offer: Offer,
    control: socket.socket,
    log_fd: int,
    parent_pid: int,
) -> NoReturn:
    """The whole life of a trainer's process, after the fork."""
    status = STATUS_BROKEN
    try:
        signal.set_wakeup_fd(-1)
        ignore_keyboard()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with(parent_pid)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        close_all_but([control.fileno()])
        nursery_pid, nursery_socket = nursery.start(trial)
        gc.enable()
        working = importlib.import_module("allotment_trainer.working")
        status = asyncio.run(working.serve(start, offer, control, nursery_socket))
        _end_nursery(nursery_pid)
    except BaseException:
        log.exception("trainer")
    finally:
        os._exit(status)


def _end_nursery(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def clear(folder: Path) -> None:
    """An empty folder for nobody else's eyes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)


def say(control: socket.socket, message: dict[str, Any]) -> None:
    """Tells the host, if it is still there."""
    with contextlib.suppress(OSError):
        lines.write(control.fileno(), message)
