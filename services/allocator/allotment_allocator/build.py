"""Puts the allocator together."""

import asyncio
import contextlib
import logging
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from allotment_allocator.adapters.sql_desk import SqlDesk
from allotment_allocator.cluster_config import ClusterConfig
from allotment_allocator.config import AllocatorConfig
from allotment_allocator.domain.absence import Absence
from allotment_allocator.domain.allocation import Allocation, Rules
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.identity import Identities
from allotment_allocator.domain.keeper import Keeper, Tokens
from allotment_allocator.domain.site import Site
from allotment_allocator.domain.snapshot import Policy
from allotment_allocator.domain.tenant import Terms
from allotment_allocator.on_machine import Machine
from allotment_allocator.servicer import LeaseServicer, PoolServicer, TenantServicer
from allotment_api.allocator.v1 import allocator_pb2
from allotment_api.allocator.v1 import allocator_pb2_grpc as wire
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_core.names import LeaseName, TenantName
from allotment_core.rpc import Service

log = logging.getLogger(__name__)

MIGRATIONS = "allotment_allocator.adapters.migrations"
PROTOS = (allocator_pb2.DESCRIPTOR,)
PRUNE_EVERY_S = 3600.0


async def build(
    config: AllocatorConfig,
    clock: Clock,
    signer: TokenSigner,
    server_address: Callable[[], str] | None = None,
    first_host: Process | None = None,
    retired_keys: Sequence[bytes] = (),
    cluster: ClusterConfig | None = None,
    database: Database | None = None,
) -> Service:
    """The service, its database opened and migrated.

    `server_address` is asked at each start of a trainer: where trainers reach the controller and
    the dataset service; None: as configured. `first_host`: a trainer host that `spawn_host` has
    started ahead, since that takes longer than everything else. `retired_keys`: public keys (PEM)
    of earlier signers. `cluster`: where trainers run; None: on this machine. `database`: one that
    is open already.
    """
    if database is None:
        database = await Database.open(config.database_url, migrations=MIGRATIONS, clock=clock)
    site = _site(config, cluster, clock, first_host)
    board = Board()
    absence = Absence(ttl_s=config.lease_ttl_s, spared_s=cluster.absence_s if cluster else 0.0)
    desk = SqlDesk(
        database,
        board,
        lambda: site.pools,
        rules(config, site),
        clock,
        site.launcher.trainers,
        absence,
    )
    await _make_local_tenant(desk, config)
    leases = await desk.read(lambda books: books.live_leases())
    board.publish(leases, clock.monotonic())
    keeper = Keeper(
        desk=desk,
        board=board,
        launcher=site.launcher,
        pools=lambda: site.pools,
        rules=site.staffing,
        clock=clock,
        absence=absence,
        tokens=_trainer_tokens(signer, config.trainer_token_ttl_s)
        if cluster is None
        else _no_token,
        server_address=server_address or (lambda: config.server_address),
        cache_dir=config.cache_dir or Path(),
    )
    desk.on_change = keeper.kick
    loops = _Loops(
        lambda: site.start(desk, board, keeper.kick),
        site.close,
        keeper.run,
        lambda: _prune(desk, clock, config.ended_lease_kept_s),
    )
    return Service(
        name="allocator",
        servicers=(
            (wire.add_PoolServiceServicer_to_server, PoolServicer(lambda: site.pools, board)),
            (
                wire.add_TenantServiceServicer_to_server,
                TenantServicer(desk, signer, clock, retired_keys, site.pod_keys),
            ),
            (
                wire.add_LeaseServiceServicer_to_server,
                LeaseServicer(desk, board, Identities(site.trainer_pods, board), absence, clock),
            ),
        ),
        database=database,
        start=loops.start,
        stop=loops.stop,
    )


def _site(
    config: AllocatorConfig,
    cluster: ClusterConfig | None,
    clock: Clock,
    first_host: Process | None,
) -> Site:
    if cluster is None:
        return Machine(config, clock, first_host)
    # Only the extra `kubernetes` has what the cluster's side imports.
    from allotment_allocator.on_cluster import Cluster  # noqa: PLC0415

    return Cluster(cluster, clock)


class _Loops:
    """What runs while the service is served: the site, and work until it is cancelled."""

    def __init__(
        self,
        start_site: Callable[[], None],
        close_site: Callable[[], Awaitable[None]],
        *works: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._start_site = start_site
        self._close_site = close_site
        self._works = works
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._start_site()
        self._tasks = [asyncio.create_task(work()) for work in self._works]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._close_site()


def _no_token(lease: LeaseName, epoch: int, now: datetime) -> str:
    """A pod has its cluster's token."""
    return ""


def _trainer_tokens(signer: TokenSigner, ttl_s: int) -> Tokens:
    """Tokens that are bound to a lease and its epoch."""

    def issue(lease: LeaseName, epoch: int, now: datetime) -> str:
        return signer.issue(
            "trainer", lease.tenant, Role.TRAINER, ttl_s, now, lease=lease, lease_epoch=epoch
        )

    return issue


def rules(config: AllocatorConfig, site: Site) -> Rules:
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
        dedicated_nodes=site.dedicated_nodes,
        queueing=site.queueing,
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
