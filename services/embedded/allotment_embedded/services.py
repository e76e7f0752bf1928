"""Every service by its own `build`, on one state folder. They call each other over the one
address.
"""

import asyncio
from asyncio.subprocess import Process
from collections.abc import Callable

import grpc.aio

from allotment_allocator.build import build as build_allocator
from allotment_allocator.config import AllocatorConfig
from allotment_controller.build import build as build_controller
from allotment_controller.config import ControllerConfig
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import Clock
from allotment_core.rpc import Service
from allotment_dataset.build import build as build_dataset
from allotment_dataset.config import DatasetConfig
from allotment_embedded.state import StateFolder
from allotment_exporter.build import build as build_exporter
from allotment_exporter.config import ExporterConfig


async def build_services(
    state: StateFolder,
    address: str,
    signer: TokenSigner,
    open_channel: Callable[[], grpc.aio.Channel],
    clock: Clock,
    trainer_host: Process | None,
) -> list[Service]:
    """In the order in which they start; they stop in the opposite one.

    The allocator is first: loading the trainers' libraries takes longest.

    Raises: AllotmentError when a database is of a newer version or can't be used; then none is
    left open.
    """
    builds = [
        build_allocator(_allocator_config(state, address), clock, signer, first_host=trainer_host),
        build_dataset(_dataset_config(state), clock),
        build_exporter(
            ExporterConfig(
                database_url=state.database_url("exporter"), work_dir=state.work("exporter")
            ),
            clock,
            open_channel(),
        ),
        build_controller(
            ControllerConfig(database_url=state.database_url("controller")), clock, open_channel
        ),
    ]
    built = await asyncio.gather(*builds, return_exceptions=True)
    services = [service for service in built if isinstance(service, Service)]
    failures = [failure for failure in built if isinstance(failure, BaseException)]
    if failures:
        await close_databases(services)
        raise failures[0]
    return services


def _allocator_config(state: StateFolder, address: str) -> AllocatorConfig:
    return AllocatorConfig(
        database_url=state.database_url("allocator"),
        work_dir=state.work("allocator"),
        cache_dir=state.work("cache"),
        server_address=address,
    )


def _dataset_config(state: StateFolder) -> DatasetConfig:
    return DatasetConfig(
        database_url=state.database_url("dataset"),
        blob_dir=state.blobs,
        work_dir=state.work("dataset"),
    )


async def close_databases(services: list[Service]) -> None:
    for service in services:
        if service.database is not None:
            await service.database.close()
