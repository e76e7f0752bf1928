"""Serves the allocator alone: `python -m allotment_allocator`, settings from the environment."""

import os
import sys

from allotment_allocator.build import MIGRATIONS, PROTOS, build
from allotment_allocator.cluster_config import load_cluster
from allotment_allocator.config import AllocatorConfig, AllocatorServer
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, TokenVerifier, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.rpc.alone import run_alone
from allotment_core.rpc.leading import Leadable, serve_leading

CALLERS = {"controller": Role.ADMIN, "dataset": Role.SERVICE, "exporter": Role.SERVICE}
"""All ask for the keys and for whose trainer a pod is; the controller alone for leases."""


async def serve(config: AllocatorConfig, alone: AllocatorServer) -> None:
    """Stands by, leads, and drains at SIGTERM or SIGINT."""
    clock = SystemClock()
    signer = TokenSigner(load_or_create_key(alone.key_file))
    retired = alone.retired_keys()
    cluster = load_cluster(os.environ)
    verifier = TokenVerifier(signer.public_key_pem, clock, *retired)
    served = Leadable(
        name="allocator",
        protos=PROTOS,
        database_url=config.database_url,
        migrations=MIGRATIONS,
        build=lambda database: build(
            config, clock, signer, retired_keys=retired, cluster=cluster, database=database
        ),
    )
    await serve_leading(alone.server((), verifier, clock, CALLERS), served, clock)


if __name__ == "__main__":
    sys.exit(run_alone("allocator", AllocatorConfig, AllocatorServer, serve))
