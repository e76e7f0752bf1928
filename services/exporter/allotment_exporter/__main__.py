"""Serves the exporter alone: `python -m allotment_exporter`, settings from the environment."""

import sys

from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone, serve_until_signal
from allotment_exporter.build import build
from allotment_exporter.config import ExporterConfig, ExporterServer

CALLERS = {"controller": Role.ADMIN}


async def serve(config: ExporterConfig, alone: ExporterServer) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    verifier = alone.verifier(clock)
    dataset = alone.channel_to(alone.dataset_address)
    service = await build(config, clock, dataset)
    await serve_until_signal(alone.server([service], verifier, clock, CALLERS))
    await dataset.close()


if __name__ == "__main__":
    sys.exit(run_alone("exporter", ExporterConfig, ExporterServer, serve))
