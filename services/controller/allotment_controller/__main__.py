"""Serves the controller alone: `python -m allotment_controller`, settings from the environment."""

import sys

import grpc.aio

from allotment_controller.build import ChannelTo, build
from allotment_controller.config import ControllerConfig, ControllerServer
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone, serve_until_signal


async def serve(config: ControllerConfig, alone: ControllerServer) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    verifier = alone.verifier(clock)
    channels = [
        alone.channel_to(address)
        for address in (alone.dataset_address, alone.allocator_address, alone.exporter_address)
    ]
    service = await build(config, clock, *(_opener(c) for c in channels))
    await serve_until_signal(alone.server([service], verifier, clock))
    for opened in channels:
        await opened.close()


def _opener(opened: grpc.aio.Channel) -> ChannelTo:
    return lambda: opened


if __name__ == "__main__":
    sys.exit(run_alone("controller", ControllerConfig, ControllerServer, serve))
