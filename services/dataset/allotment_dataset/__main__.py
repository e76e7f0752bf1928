"""Serves the dataset service alone: `python -m allotment_dataset`, settings from the
environment.
"""

import sys

from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.rpc import RpcServer
from allotment_core.rpc.alone import run_alone, serve_until_signal
from allotment_dataset.build import build
from allotment_dataset.config import DatasetConfig, ServerConfig


async def serve(config: DatasetConfig, alone: ServerConfig) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    service = await build(config, clock)
    verifier = TokenVerifier(alone.public_key_file.read_bytes(), clock)
    await serve_until_signal(
        RpcServer([service], verifier, clock, alone.address, metrics_port=alone.metrics_port)
    )


if __name__ == "__main__":
    sys.exit(run_alone("dataset", DatasetConfig, ServerConfig, serve))
