"""A process that ends with its parent, and with everything below it.

On Linux the kernel kills a child whose parent dies. Elsewhere the end of a pipe says so; every
process here also watches that.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MOST_DESCRIPTORS = 65_536
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent_pid: int) -> None:
    """Called after a fork: from now on this process is killed when its parent is. A parent that
    died meanwhile ends it at once.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)


def adopt_orphans() -> None:
    """What descendants leave behind becomes this process's child, to be ended and waited for. Linux
    alone.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every descriptor that a fork inherited, but these and 0 to 2."""
    low = 3
    for descriptor in sorted(set(keep)):
        if descriptor >= low:
            os.closerange(low, descriptor)
            low = descriptor + 1
    os.closerange(low, max(low, _MOST_DESCRIPTORS))


def children_of(pid: int, *, recursive: bool = True) -> list[int]:
    """The processes below one, as they are now."""
    try:
        return [p.pid for p in psutil.Process(pid).children(recursive=recursive)]
    except psutil.Error:
        return []


def kill(pid: int) -> None:
    """Kills one process; one that is gone is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """Kills a process and all below it."""
    below = children_of(pid)
    kill(pid)
    for child in below:
        kill(child)


def reap() -> None:
    """Waits for every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def ignore_keyboard() -> None:
    """Ctrl-C goes to the whole process group; what it means is for the server to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
