"""One service in a process of its own: settings in, SERVING, drain on SIGTERM or SIGINT."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from allotment_core.config import load
from allotment_core.errors import AllotmentError
from allotment_core.events import configure_logging
from allotment_core.rpc.server import RpcServer

C = TypeVar("C")
S = TypeVar("S")


async def serve_until_signal(server: RpcServer) -> None:
    """Starts the server, and drains it at the first SIGTERM or SIGINT."""
    await server.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await server.stop()


def run_alone(
    service: str,
    config: type[C],
    server_config: type[S],
    serve: Callable[[C, S], Awaitable[None]],
) -> int:
    """Serves with settings from ALLOTMENT_<SERVICE>_* and ALLOTMENT_SERVE_*.

    The exit status: 0 after a drain, 2 for settings that can't be used.
    """
    configure_logging(service, os.environ.get("ALLOTMENT_LOG_LEVEL", "INFO"))

    async def serve_loaded() -> None:
        own = load(config, os.environ, f"ALLOTMENT_{service.upper()}_")
        await serve(own, load(server_config, os.environ, "ALLOTMENT_SERVE_"))

    try:
        asyncio.run(serve_loaded())
    except AllotmentError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
