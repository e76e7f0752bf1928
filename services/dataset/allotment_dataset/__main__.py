"""Serves the dataset service alone: `python -m allotment_dataset`, settings from the
environment.
"""

import sys

from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone
from allotment_core.rpc.leading import Leadable, serve_leading
from allotment_dataset.build import MIGRATIONS, PROTOS, build
from allotment_dataset.config import DatasetConfig, DatasetServer

CALLERS = {"controller": Role.ADMIN, "exporter": Role.ADMIN}


async def serve(config: DatasetConfig, alone: DatasetServer) -> None:
    """Stands by, leads, and drains at SIGTERM or SIGINT."""
    clock = SystemClock()
    verifier = alone.verifier(clock)
    served = Leadable(
        name="dataset",
        protos=PROTOS,
        database_url=config.database_url,
        migrations=MIGRATIONS,
        build=lambda database: build(config, clock, database=database),
    )
    await serve_leading(alone.server((), verifier, clock, CALLERS), served, clock)


if __name__ == "__main__":
    sys.exit(run_alone("dataset", DatasetConfig, DatasetServer, serve))
