"""Options that many commands share, and the client that they lead to."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(slots=True)
class ServerChoice:
    """What the command line says about the server; empty: environment and profile decide."""

    server: str = ""
    token: str = ""
    ca: Path | None = None
    profile: str = ""
    tenant: str = ""


CHOICE = ServerChoice()
"""Set once from the options before the command's name."""


def parse_duration_s(text: str) -> float:
    """Seconds of "90", "60s", "5m", "1.5h", "30d", "1h30m". Raises: typer.BadParameter."""
    pieces = _DURATION.findall(text.strip())
    if not pieces or "".join(number + unit for number, unit in pieces) != text.strip():
        raise typer.BadParameter(f"{text[:80]!r} is no duration; write 60s, 5m, 1h30m or 30d")
    return sum(float(number) * _SECONDS[unit] for number, unit in pieces)


def say(text: str) -> None:
    """A line for the person at the terminal, beside the output proper."""
    print(text, file=sys.stderr, flush=True)
