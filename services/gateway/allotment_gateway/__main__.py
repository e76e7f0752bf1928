"""Serves the gateway: `python -m allotment_gateway`, settings from the environment."""

import sys

from allotment_core.rpc.alone import run_alone, serve_until_signal
from allotment_gateway.build import build
from allotment_gateway.config import GatewayConfig, GatewayServer


async def serve(config: GatewayConfig, alone: GatewayServer) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    await serve_until_signal(build(config, alone))


if __name__ == "__main__":
    sys.exit(run_alone("gateway", GatewayConfig, GatewayServer, serve))
