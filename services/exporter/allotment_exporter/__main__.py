"""Serves the exporter alone: `python -m allotment_exporter`, settings from the environment."""

import sys

from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.rpc import RpcServer
from allotment_core.rpc.alone import run_alone, serve_until_signal
from allotment_core.rpc.client import channel
from allotment_exporter.build import build
from allotment_exporter.config import ExporterConfig, ServerConfig


async def serve(config: ExporterConfig, alone: ServerConfig) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    # A rotated token is read again at the next call.
    dataset = channel(
        alone.dataset_address, token_source=lambda: alone.token_file.read_text().strip()
    )
    service = await build(config, clock, dataset)
    verifier = TokenVerifier(alone.public_key_file.read_bytes(), clock)
    await serve_until_signal(
        RpcServer([service], verifier, clock, alone.address, metrics_port=alone.metrics_port)
    )
    await dataset.close()


if __name__ == "__main__":
    sys.exit(run_alone("exporter", ExporterConfig, ServerConfig, serve))
