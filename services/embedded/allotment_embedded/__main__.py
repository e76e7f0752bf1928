"""A local system: every service in one process, served on 127.0.0.1 until SIGTERM.

    python -m allotment_embedded --dir FOLDER [--port P] [--metrics-port P]
                                 [--private --scratch FOLDER]

With --private one line of JSON on stdout tells the starter the address and a token (or the error),
and the end of stdin is the end of everything: processes and the scratch folder. State that lies
within that goes with it.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from allotment_allocator.adapters.host_launcher import spawn_host
from allotment_allocator.config import HOST_COMMAND
from allotment_core.errors import AllotmentError
from allotment_embedded import lifeline


def main() -> int:
    parser = argparse.ArgumentParser(prog="allotment up")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--metrics-port", type=int, default=0)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--scratch", type=Path)
    arguments = parser.parse_args()
    if arguments.private:
        if arguments.scratch is None:
            parser.error("--private needs --scratch")
        lifeline.hold_on(arguments.scratch)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Until the server takes signals itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    try:
        return asyncio.run(_serve(arguments))
    except AllotmentError as e:
        if arguments.private:
            print(json.dumps({"error": {"reason": e.reason, "message": e.message}}), flush=True)
        else:
            print(f"error: {e.message} [{e.reason}]", file=sys.stderr)
        return 1


async def _serve(arguments: argparse.Namespace) -> int:
    # Before everything else: the trainers' libraries take longer to load than the services'.
    host = await spawn_host(HOST_COMMAND)
    try:
        from allotment_embedded import server  # noqa: PLC0415 - the heavier imports

        return await server.serve(
            arguments.dir,
            port=arguments.port,
            metrics_port=arguments.metrics_port or None,
            private=arguments.private,
            trainer_host=host,
        )
    finally:
        if host.returncode is None:
            host.kill()
            await host.wait()


if __name__ == "__main__":
    sys.exit(main())
