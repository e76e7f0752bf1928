"""`allotment up`: a server in the foreground."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from allotment.settings import default_state_dir
from allotment_core.errors import FailedPrecondition

DEFAULT_PORT = 8470
NEEDED = ("alembic", "jwt", "numpy", "onnx", "onnxruntime", "pyarrow", "sklearn", "sqlalchemy")


def up(
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = DEFAULT_PORT,
    dir: Annotated[Path | None, typer.Option("--dir", help="Folder for all state.")] = None,
    metrics_port: Annotated[
        int, typer.Option(help="Serve Prometheus metrics here; 0: don't.", min=0, max=65535)
    ] = 0,
) -> None:
    """Serve everything on 127.0.0.1 until SIGTERM or Ctrl-C.

    The folder's file `token` has a token for the server.
    """
    missing = [name for name in NEEDED if not _installed(name)]
    if missing:
        raise FailedPrecondition(
            f"a server needs {', '.join(missing)}; pip install 'allotment[local]'",
            reason="LIBRARIES_MISSING",
        )
    folder = (dir or default_state_dir(os.environ)).expanduser().absolute()
    command = [sys.executable, "-P", "-m", "allotment_embedded", "--dir", str(folder)]
    command += ["--port", str(port), "--metrics-port", str(metrics_port)]
    try:
        sys.stdout.flush()
        # The server takes this process over: who started it has the server itself at hand.
        os.execve(sys.executable, command, {**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
    except OSError as e:
        raise FailedPrecondition(
            f"{sys.executable} can't be started: {e.strerror}", reason="SERVER_FAILED"
        ) from e


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:
        return False
