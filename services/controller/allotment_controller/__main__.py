"""Serves the controller alone: `python -m allotment_controller`, settings from the environment."""

import asyncio
import os
import signal
import sys

import grpc.aio

from allotment_controller.build import ChannelTo, build
from allotment_controller.config import ControllerConfig, ServerConfig
from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.config import load
from allotment_core.errors import AllotmentError
from allotment_core.events import configure_logging
from allotment_core.rpc import RpcServer
from allotment_core.rpc.client import channel


async def serve(config: ControllerConfig, alone: ServerConfig) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    # A rotated token is read again at the next call.
    channels = [
        channel(address, token_source=lambda: alone.token_file.read_text().strip())
        for address in (alone.dataset_address, alone.allocator_address, alone.exporter_address)
    ]
    service = await build(config, clock, *(_opener(c) for c in channels))
    verifier = TokenVerifier(alone.public_key_file.read_bytes(), clock)
    server = RpcServer([service], verifier, clock, alone.address, metrics_port=alone.metrics_port)
    await server.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await server.stop()
    for opened in channels:
        await opened.close()


def _opener(opened: grpc.aio.Channel) -> ChannelTo:
    return lambda: opened


def main() -> int:
    """The exit status: 0 after a drain, 2 for settings that can't be used."""
    configure_logging("controller", os.environ.get("ALLOTMENT_LOG_LEVEL", "INFO"))
    try:
        config = load(ControllerConfig, os.environ, "ALLOTMENT_CONTROLLER_")
        asyncio.run(serve(config, load(ServerConfig, os.environ, "ALLOTMENT_SERVE_")))
    except AllotmentError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
