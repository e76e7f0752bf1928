"""Serves the dataset service alone: `python -m allotment_dataset`, settings from the
environment.
"""

import asyncio
import os
import signal
import sys

from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.config import load
from allotment_core.errors import AllotmentError
from allotment_core.events import configure_logging
from allotment_core.rpc import RpcServer
from allotment_dataset.build import build
from allotment_dataset.config import DatasetConfig, ServerConfig


async def serve(config: DatasetConfig, server_config: ServerConfig) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    service = await build(config, clock)
    server = RpcServer(
        [service],
        TokenVerifier(server_config.public_key_file.read_bytes(), clock),
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
    configure_logging("dataset", os.environ.get("ALLOTMENT_LOG_LEVEL", "INFO"))
    try:
        config = load(DatasetConfig, os.environ, "ALLOTMENT_DATASET_")
        server_config = load(ServerConfig, os.environ, "ALLOTMENT_SERVE_")
        asyncio.run(serve(config, server_config))
    except AllotmentError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
