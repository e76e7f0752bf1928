"""The command `allotment`: errors as one line, exit codes, and an early start for `run`.

Exit codes: 0 well, 1 failed, 2 wrong usage, 130 interrupted.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allotment.cli import own_server
from allotment.cli.started import STARTED_MONOTONIC


def main() -> int:
    """Runs the command line of this process."""
    arguments = sys.argv[1:]
    assert STARTED_MONOTONIC  # Read before anything that takes time.
    # What gRPC's core has to say about lost connections is said by us, in a line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        if needs_own_server(arguments, os.environ):
            own_server.start(state_dir(arguments))
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    finally:
        own_server.kill()


def needs_own_server(arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """True when the command line will surely need an embedded server, as far as a glance at it
    tells.
    """
    if "run" not in arguments[:1] or env.get("ALLOTMENT_SERVER") or env.get("ALLOTMENT_PROFILE"):
        return False
    options = {argument.partition("=")[0] for argument in arguments}
    if options & {"--help", "--server", "--profile"}:
        return False
    if "--resume" in options:
        # A folder that is not there is a mistake: a server would make it.
        kept = state_dir(arguments)
        return "--out" in options and kept is not None and kept.is_dir()
    return {"--target", "--out"} <= options


def state_dir(arguments: Sequence[str]) -> Path | None:
    """What --dir names; None without it."""
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--dir":
            named = value or "".join(arguments[place + 1 : place + 2])
            return Path(named).absolute() if named else None
    return None


def _run(arguments: Sequence[str]) -> int:
    # After the server's start, since it takes longest.
    import typer  # noqa: PLC0415

    from allotment.cli.app import app  # noqa: PLC0415
    from allotment_core.errors import AllotmentError  # noqa: PLC0415

    usage_error: Any = typer.BadParameter.__base__
    try:
        status = app(args=list(arguments), prog_name="allotment", standalone_mode=False)
    except usage_error as e:
        hint = f" (see `{e.ctx.command_path} --help`)" if e.ctx else ""
        print(f"error: {e.format_message()}{hint}", file=sys.stderr)
        return 2
    except usage_error.__base__ as e:
        print(f"error: {e.format_message()}", file=sys.stderr)
        return 1
    except typer.Abort:
        return 130
    except AllotmentError as e:
        print(f"error: {e.message} [{e.reason}]", file=sys.stderr)
        for violation in e.violations:
            print(f"  {violation.field}: {violation.description}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone: nothing to say to anyone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
