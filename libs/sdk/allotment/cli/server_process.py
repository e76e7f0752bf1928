"""The embedded server of one `allotment run`: a process group that never outlives the command.

Its state is private, and temporary unless a folder is named for it. It holds on to a pipe of ours:
when we die, however that happens, it sees the pipe's end, removes what is temporary and kills its
group. `kill` ends the whole group at once.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
REAP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Where a started server is, and the token for it."""

    address: str
    token: str


class ServerFailed(Exception):
    """The server could not be started; the text says why."""


class ServerProcess:
    """A server on its way up. Starting one costs milliseconds; `wait_ready` waits for it."""

    def __init__(self, state_dir: Path | None = None) -> None:
        """`state_dir`: what the server knows stays there; None: it goes with the server."""
        _adopt_orphans()
        self.folder = Path(tempfile.mkdtemp(prefix="allotment-run-"))
        state = self.folder / "state" if state_dir is None else state_dir
        self._log = (self.folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "allotment_embedded"),
                *("--dir", str(state), "--port", "0", "--private", "--scratch", str(self.folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            process_group=0,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )

    def wait_ready(self) -> Ready:
        """Blocks until the server serves. Raises: ServerFailed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            said = json.loads(line)
        except ValueError:
            said = {}
        if "ready" in said:
            return Ready(address=said["ready"]["address"], token=said["ready"]["token"])
        if "error" in said:
            raise ServerFailed(str(said["error"]["message"]))
        tail = self.log_tail() or "no output"
        hint = "; pip install 'allotment[local]'" if "No module named" in tail else ""
        raise ServerFailed(f"the server ended while it started: {tail}{hint}")

    def log_tail(self) -> str:
        """The last line that the server logged."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "server.log").read_text("utf-8", "replace").splitlines()
            return lines[-1][-500:] if lines else ""
        return ""

    def kill(self) -> None:
        """Ends the server with all that it started and removes its state; calling it again does
        nothing.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        _reap_orphans(self._process.pid)
        shutil.rmtree(self.folder, ignore_errors=True)


def _adopt_orphans() -> None:
    """Makes this process the one that a killed server's children fall to, so that it can wait for
    their end.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans(group: int) -> None:
    """Waits until no process of the group is left."""
    until = time.monotonic() + REAP_S
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-group, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.005)
