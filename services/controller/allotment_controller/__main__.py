"""Serves the controller alone: `python -m allotment_controller`, settings from the environment."""

import sys

import grpc.aio

from allotment_controller.build import MIGRATIONS, PROTOS, ChannelTo, build
from allotment_controller.config import ControllerConfig, ControllerServer
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone
from allotment_core.rpc.leading import Leadable, serve_leading


async def serve(config: ControllerConfig, alone: ControllerServer) -> None:
    """Stands by, leads, and drains at SIGTERM or SIGINT."""
    clock = SystemClock()
    verifier = alone.verifier(clock)
    channels = [
        alone.channel_to("dataset", alone.dataset_address),
        alone.channel_to("allocator", alone.allocator_address),
        alone.channel_to("exporter", alone.exporter_address),
    ]
    served = Leadable(
        name="controller",
        protos=PROTOS,
        database_url=config.database_url,
        migrations=MIGRATIONS,
        build=lambda database: build(
            config, clock, *(_opener(c) for c in channels), database=database
        ),
    )
    await serve_leading(alone.server((), verifier, clock), served, clock)
    for opened in channels:
        await opened.close()


def _opener(opened: grpc.aio.Channel) -> ChannelTo:
    return lambda: opened


if __name__ == "__main__":
    sys.exit(run_alone("controller", ControllerConfig, ControllerServer, serve))
