"""What this machine lets this process use."""

import math
import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
MEMORY_SHARE = 0.7
"""Of the usable memory, what trainers may have; the rest is for the servers and the page cache."""


def usable_cores() -> int:
    """CPU cores by affinity and cgroup quota; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def usable_memory_bytes() -> int:
    """Memory of the machine, or what the cgroup allows of it."""
    total = int(psutil.virtual_memory().total)
    limits = [_number(folder / "memory.max") for folder in _cgroup_folders()]
    limits.append(_number(_CGROUP / "memory" / "memory.limit_in_bytes"))
    return min([total, *(limit for limit in limits if limit)])


def _cgroup_folders() -> list[Path]:
    """This process's cgroup (version 2) and those around it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    inner = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = _CGROUP / inner.strip("/")
    return [folder, *(p for p in folder.parents if p.is_relative_to(_CGROUP))]


def _cpu_quota() -> float | None:
    quotas = []
    for folder in _cgroup_folders():
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            quotas.append(int(quota) / int(period))
    first = _CGROUP / "cpu"
    quota_us, period_us = _number(first / "cpu.cfs_quota_us"), _number(first / "cpu.cfs_period_us")
    if quota_us and period_us:
        quotas.append(quota_us / period_us)
    return min(quotas, default=None)


def _number(path: Path) -> int | None:
    """The positive number in a file; None where there is none."""
    try:
        value = int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if value > 0 else None
