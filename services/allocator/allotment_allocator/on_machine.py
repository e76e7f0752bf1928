"""Trainers as processes of this machine."""

from asyncio.subprocess import Process
from collections.abc import Callable

from allotment_allocator.adapters import machine
from allotment_allocator.adapters.host_launcher import HostLauncher
from allotment_allocator.config import AllocatorConfig
from allotment_allocator.domain import pool
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.identity import PodKeys, TrainerPods
from allotment_allocator.domain.queueing import Queueing
from allotment_allocator.domain.staffing import StaffRules
from allotment_core.clock import Clock
from allotment_core.errors import InvalidArgument
from allotment_core.names import PoolName


class Machine:
    """Satisfies `domain.site.Site`. Raises: InvalidArgument (INVALID_CONFIG)."""

    trainer_pods: TrainerPods | None = None
    pod_keys: PodKeys | None = None
    dedicated_nodes = False
    queueing = Queueing()

    def __init__(
        self, config: AllocatorConfig, clock: Clock, first_host: Process | None = None
    ) -> None:
        if config.work_dir is None or config.cache_dir is None:
            raise InvalidArgument(
                "ALLOTMENT_ALLOCATOR_WORK_DIR and ALLOTMENT_ALLOCATOR_CACHE_DIR are needed for "
                "trainers on this machine; set them, or ALLOTMENT_CLUSTER_* for trainers in a "
                "cluster",
                reason="INVALID_CONFIG",
            )
        self.pools: tuple[pool.Pool, ...] | None = (local_pool(config),)
        self.staffing = StaffRules(
            idle_s=config.trainer_idle_s, idle_memory_bytes=config.idle_memory_bytes
        )
        self.launcher = HostLauncher(
            config.host_command,
            config.work_dir,
            clock,
            first_host=first_host,
            server_ca=config.server_ca_file,
        )

    def start(self, desk: Desk, board: Board, on_change: Callable[[], None]) -> None:
        self.launcher.on_change = on_change
        self.launcher.start()

    async def close(self) -> None:
        await self.launcher.close()


def local_pool(config: AllocatorConfig) -> pool.Pool:
    """The slots of this machine."""
    slots = config.slots or max(1, machine.usable_cores() // max(1, config.threads_per_slot))
    memory_bytes = config.memory_bytes_per_slot or int(
        machine.usable_memory_bytes() * machine.MEMORY_SHARE / slots
    )
    return pool.local_pool(
        PoolName("local"),
        slots,
        threads_per_slot=config.threads_per_slot,
        memory_bytes_per_slot=memory_bytes,
    )
