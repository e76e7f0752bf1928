"""Serves the exporter alone: `python -m allotment_exporter`, settings from the environment."""

import sys

from allotment_core.auth.principal import Role
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone
from allotment_core.rpc.leading import Leadable, serve_leading
from allotment_exporter.adapters.sql_store import MIGRATIONS
from allotment_exporter.build import PROTOS, build
from allotment_exporter.config import ExporterConfig, ExporterServer

CALLERS = {"controller": Role.ADMIN}


async def serve(config: ExporterConfig, alone: ExporterServer) -> None:
    """Stands by, leads, and drains at SIGTERM or SIGINT."""
    clock = SystemClock()
    verifier = alone.verifier(clock)
    dataset = alone.channel_to("dataset", alone.dataset_address)
    served = Leadable(
        name="exporter",
        protos=PROTOS,
        database_url=config.database_url,
        migrations=MIGRATIONS,
        build=lambda database: build(config, clock, dataset, database=database),
    )
    await serve_leading(alone.server((), verifier, clock, CALLERS), served, clock)
    await dataset.close()


if __name__ == "__main__":
    sys.exit(run_alone("exporter", ExporterConfig, ExporterServer, serve))
