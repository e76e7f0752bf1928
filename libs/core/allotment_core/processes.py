"""Ending child processes of an event loop."""

import asyncio
import contextlib
import os
import signal


def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to a process that may have ended; its exit status stays for `process.wait`.

    `process.kill` asks for the status first and so takes it away from the loop, which then reports
    255.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
