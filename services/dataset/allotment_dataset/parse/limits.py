"""Limits that the parse child puts on itself before it touches a file."""

import ctypes
import os
import resource
import signal
import sys
import threading
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`memory_bytes` of address space, `cpu_s` of processor time, `file_bytes` for each written
    file.
    """

    memory_bytes: int
    cpu_s: int
    file_bytes: int


def apply(limits: Limits) -> None:
    """Sets the limits for this process, for good.

    Core dumps are off: they would hold tenants' data.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def die_with_parent() -> None:
    """Ends this process when its parent dies: at once on Linux, where the kernel tells."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def end_at_eof(descriptor: int) -> None:
    """Ends this process when the other side closes the pipe: everywhere, and when the job is
    given up.
    """

    def wait() -> None:
        while os.read(descriptor, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="end-at-eof", daemon=True).start()
