"""What a trial's process may use.

Memory is held by two means. RLIMIT_DATA, at twice the allowance, makes one huge allocation fail
with a MemoryError before any page of it exists (RLIMIT_AS would count what allocators only
reserve). Within that, the nursery looks at the resident memory every 50 ms and kills at the
allowance. If the machine runs out all the same, the kernel takes the trial first.
"""

import contextlib
import math
import os
import resource
import sys
from pathlib import Path

import psutil

DATA_FACTOR = 2
CPU_SLACK_S = 10.0
_OOM_SCORE = "800"
_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROWTH_BYTES = 160 << 20
"""What the trainer's own processes take once they talk to others, hold data, and have imported the
libraries of the families that come."""
_LEAST_BYTES = 64 << 20
_PAGE_BYTES = resource.getpagesize()


def apply(memory_bytes: int, cpu_s: float | None) -> None:
    """Limits this process. `cpu_s` None: no limit of CPU time."""
    allowed = _data_bytes() + DATA_FACTOR * memory_bytes
    _lower(resource.RLIMIT_DATA, allowed)
    _lower(resource.RLIMIT_CORE, 0)
    if cpu_s is not None:
        _lower(resource.RLIMIT_CPU, math.ceil(max(1.0, cpu_s)))
    os.umask(0o077)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def cpu_limit_s(deadline_monotonic: float | None, now: float, threads: int) -> float | None:
    """CPU seconds that a trial with this deadline can use, and some."""
    if deadline_monotonic is None:
        return None
    return max(0.0, deadline_monotonic - now) * max(1, threads) + CPU_SLACK_S


def own_memory_bytes(pid: int) -> int:
    """Resident memory of a process without files; 0 when it is gone."""
    try:
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/statm").read_bytes().split()
            return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
        return int(psutil.Process(pid).memory_info().rss)
    except (OSError, IndexError, psutil.Error):
        return 0


def room_bytes() -> int | None:
    """What a trial can have of its container's memory, besides the processes that are there by now;
    None where nothing limits them. A container that reaches its limit is ended as a whole, and
    nobody would know which trial was too large.
    """
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        stat = {name: int(number) for name, number in map(str.split, lines)}
    except (OSError, ValueError):
        return None
    if not most.isdigit():
        return None
    # Pages of files don't count: they go when others need the room.
    used = stat.get("anon", 0) + stat.get("shmem", 0)
    return max(_LEAST_BYTES, int(most) - used - _OWN_GROWTH_BYTES)


def _data_bytes() -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_bytes().split()[5]) * _PAGE_BYTES


def _lower(what: int, wanted: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    # macOS refuses some limits; the nursery's watch stays.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (wanted, hard))
