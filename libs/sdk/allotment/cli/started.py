"""When this process began, which is what the budget of `allotment run` counts from."""

import os
import time
from pathlib import Path


def process_age_s() -> float:
    """Seconds since the kernel started this process; 0 where it doesn't tell."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        started_s = ticks / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


STARTED_MONOTONIC = time.monotonic() - process_age_s()
"""The start by `time.monotonic()`."""
