"""Serves the allocator alone: `python -m allotment_allocator`, settings from the environment."""

import sys

from allotment_allocator.build import build
from allotment_allocator.config import AllocatorConfig, ServerConfig
from allotment_core.auth.tokens import TokenSigner, TokenVerifier, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.rpc import RpcServer
from allotment_core.rpc.alone import run_alone, serve_until_signal


async def serve(config: AllocatorConfig, alone: ServerConfig) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    clock = SystemClock()
    signer = TokenSigner(load_or_create_key(alone.key_file))
    service = await build(config, clock, signer)
    verifier = TokenVerifier(signer.public_key_pem, clock)
    await serve_until_signal(
        RpcServer([service], verifier, clock, alone.address, metrics_port=alone.metrics_port)
    )


if __name__ == "__main__":
    sys.exit(run_alone("allocator", AllocatorConfig, ServerConfig, serve))
