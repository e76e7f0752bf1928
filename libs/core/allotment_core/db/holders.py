"""Names of processes that lead, which tell those on the same machine whether they live."""

import contextlib
import os
import secrets
import socket
from pathlib import Path


def own_name() -> str:
    """host/machine/pid/random: of one candidate of this process."""
    return f"{socket.gethostname()}/{_machine()}/{os.getpid()}/{secrets.token_hex(4)}"


def has_died(name: str) -> bool:
    """Whether it is known of that process that it is gone; its number may be another's by now."""
    parts = name.split("/")
    if len(parts) != 4 or not parts[1] or parts[1] != _machine():
        return False
    with contextlib.suppress(PermissionError):
        try:
            os.kill(int(parts[2]), 0)
        except ProcessLookupError:
            return True
    return False


def _machine() -> str:
    """Where process numbers mean the same: one start of a kernel, one container; empty: unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
