"""Serves the allocator alone: `python -m allotment_allocator`, settings from the environment."""

import asyncio
import os
import signal
import sys

from allotment_allocator.build import build
from allotment_allocator.config import AllocatorConfig, ServerConfig
from allotment_core.auth.tokens import TokenSigner, TokenVerifier, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.config import load
from allotment_core.errors import AllotmentError
from allotment_core.events import configure_logging
from allotment_core.rpc import RpcServer


async def serve(config: AllocatorConfig, server_config: ServerConfig) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    signer = TokenSigner(load_or_create_key(server_config.key_file))
    service = await build(config, clock, signer)
    server = RpcServer(
        [service],
        TokenVerifier(signer.public_key_pem, clock),
        clock,
        server_config.address,
        metrics_port=server_config.metrics_port,
    )
    await server.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await server.stop()


def main() -> int:
    """The exit status: 0 after a drain, 2 for settings that can't be used."""
    configure_logging("allocator", os.environ.get("ALLOTMENT_LOG_LEVEL", "INFO"))
    try:
        config = load(AllocatorConfig, os.environ, "ALLOTMENT_ALLOCATOR_")
        server_config = load(ServerConfig, os.environ, "ALLOTMENT_SERVE_")
        asyncio.run(serve(config, server_config))
    except AllotmentError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
