"""The server of this process's own, started early and ended with it."""

import signal
from pathlib import Path

from allotment.cli.server_process import ServerProcess

_started: list[ServerProcess] = []


def start(state_dir: Path | None = None) -> None:
    """Begins to start the server; does not wait for it. `state_dir`: what it knows stays there."""
    _started.append(ServerProcess(state_dir))


def take(state_dir: Path | None = None) -> ServerProcess:
    """The server that was started early, or a fresh one; `kill` ends it."""
    if not _started:
        start(state_dir)
    return _started[0]


def folder() -> Path | None:
    """A folder that goes with the server; None without one."""
    return _started[0].folder if _started else None


def kill() -> None:
    """Ends what this process started; a further Ctrl-C can't interrupt it."""
    if _started:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    while _started:
        _started.pop().kill()
