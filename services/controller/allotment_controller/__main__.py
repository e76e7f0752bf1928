"""Serves the controller alone: `python -m allotment_controller`, settings from the environment."""

import sys

import grpc.aio

from allotment_controller.build import ChannelTo, build
from allotment_controller.config import ControllerConfig, ServerConfig
from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.rpc import RpcServer
from allotment_core.rpc.alone import run_alone, serve_until_signal
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
    await serve_until_signal(
        RpcServer([service], verifier, clock, alone.address, metrics_port=alone.metrics_port)
    )
    for opened in channels:
        await opened.close()


def _opener(opened: grpc.aio.Channel) -> ChannelTo:
    return lambda: opened


if __name__ == "__main__":
    sys.exit(run_alone("controller", ControllerConfig, ServerConfig, serve))
