"""Serves the dataset service alone: `python -m allotment_dataset`, settings from the
environment.
"""

import sys

from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone, serve_until_signal
from allotment_dataset.build import build
from allotment_dataset.config import DatasetConfig, DatasetServer

CALLERS = {"controller": Role.ADMIN, "exporter": Role.ADMIN}


async def serve(config: DatasetConfig, alone: DatasetServer) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    verifier = alone.verifier(clock)
    service = await build(config, clock)
    await serve_until_signal(alone.server([service], verifier, clock, CALLERS))


if __name__ == "__main__":
    sys.exit(run_alone("dataset", DatasetConfig, DatasetServer, serve))
