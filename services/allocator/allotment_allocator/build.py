"""Puts the allocator together."""

import asyncio
import contextlib
import logging
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

from allotment_allocator.adapters import machine
from allotment_allocator.adapters.host_launcher import HostLauncher
from allotment_allocator.adapters.sql_desk import SqlDesk
from allotment_allocator.config import AllocatorConfig
from allotment_allocator.domain import pool
from allotment_allocator.domain.allocation import Allocation, Rules
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.identity import Identities
from allotment_allocator.domain.keeper import Keeper, Tokens
from allotment_allocator.domain.snapshot import Policy
from allotment_allocator.domain.staffing import StaffRules
from allotment_allocator.domain.tenant import Terms
from allotment_allocator.servicer import LeaseServicer, PoolServicer, TenantServicer
from allotment_api.allocator.v1 import allocator_pb2_grpc as wire
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_core.names import LeaseName, PoolName, TenantName
from allotment_core.rpc import Service

log = logging.getLogger(__name__)

MIGRATIONS = "allotment_allocator.adapters.migrations"
PRUNE_EVERY_S = 3600.0


async def build(
    config: AllocatorConfig,
    clock: Clock,
    signer: TokenSigner,
    server_address: Callable[[], str] | None = None,
    first_host: Process | None = None,
    retired_keys: Sequence[bytes] = (),
) -> Service:
    """The service, its database opened and migrated.

    `server_address` is asked at each start of a trainer: where trainers reach the controller and
    the dataset service; None: as configured. `first_host`: a trainer host that `spawn_host` has
    started ahead, since that takes longer than everything else. `retired_keys`: public keys (PEM)
    of earlier signers.
    """
    database = await Database.open(config.database_url, migrations=MIGRATIONS, clock=clock)
    supply = (local_pool(config),)
    board = Board()
    launcher = HostLauncher(
        config.host_command,
        config.work_dir,
        clock,
        first_host=first_host,
        server_ca=config.server_ca_file,
    )
    desk = SqlDesk(database, board, lambda: supply, rules(config), clock, launcher.trainers)
    await _make_local_tenant(desk, config)
    leases = await desk.read(lambda books: books.live_leases())
    board.publish(leases, clock.monotonic())
    keeper = Keeper(
        desk=desk,
        board=board,
        launcher=launcher,
        pools=lambda: supply,
        rules=StaffRules(idle_s=config.trainer_idle_s, idle_memory_bytes=config.idle_memory_bytes),
        clock=clock,
        tokens=_trainer_tokens(signer, config.trainer_token_ttl_s),
        server_address=server_address or (lambda: config.server_address),
        cache_dir=config.cache_dir,
    )
    launcher.on_change = keeper.kick
    desk.on_change = keeper.kick
    loops = _Loops(launcher, keeper.run, lambda: _prune(desk, clock, config.ended_lease_kept_s))
    return Service(
        name="allocator",
        servicers=(
            (wire.add_PoolServiceServicer_to_server, PoolServicer(lambda: supply, board)),
            (
                wire.add_TenantServiceServicer_to_server,
                TenantServicer(desk, signer, clock, retired_keys),
            ),
            (
                wire.add_LeaseServiceServicer_to_server,
                LeaseServicer(desk, board, Identities(None, board)),
            ),
        ),
        database=database,
        start=loops.start,
        stop=loops.stop,
    )


class _Loops:
    """What runs while the service is served: the launcher, and work until it is cancelled."""

    def __init__(
        self, launcher: HostLauncher, *works: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._launcher = launcher
        self._works = works
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._launcher.start()
        self._tasks = [asyncio.create_task(work()) for work in self._works]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._launcher.close()


def _trainer_tokens(signer: TokenSigner, ttl_s: int) -> Tokens:
    """Tokens that are bound to a lease and its epoch."""

    def issue(lease: LeaseName, epoch: int, now: datetime) -> str:
        return signer.issue(
            "trainer", lease.tenant, Role.TRAINER, ttl_s, now, lease=lease, lease_epoch=epoch
        )

    return issue


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


def rules(config: AllocatorConfig) -> Rules:
    """The numbers of the division."""
    return Rules(
        policy=Policy(
            minimum_runtime_s=config.minimum_runtime_s,
            turn_s=config.turn_s,
            reserve_after_s=config.reserve_after_s,
        ),
        ttl_s=config.lease_ttl_s,
        revoke_grace_s=config.revoke_grace_s,
        half_life_s=config.half_life_s,
    )


async def _make_local_tenant(desk: SqlDesk, config: AllocatorConfig) -> None:
    if not config.local_tenant:
        return
    name = TenantName(config.local_tenant)

    def make(allocation: Allocation) -> None:
        allocation.create_tenant(name, Terms())

    if await desk.read(lambda books: books.tenant(name)) is None:
        await desk.change(make)


async def _prune(desk: Desk, clock: Clock, kept_s: float) -> None:
    while True:
        try:
            await desk.write(lambda books: books.prune(clock.now(), kept_s))
        except Exception:
            log.exception("pruning ended leases failed")
        await asyncio.sleep(PRUNE_EVERY_S)
