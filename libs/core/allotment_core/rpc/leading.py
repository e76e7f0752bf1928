"""One service in a process of its own, of which several may run: one leads, the others stand by.

A process that stands by has its database open and migrated, answers health, and refuses all else.
What it serves is built when it has taken the leadership. A leader that was deposed ends: nothing
of what it has in memory is true any more, and its next start is the one way to a clean state.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from google.protobuf.descriptor import FileDescriptor

from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_core.db.leadership import Leadership, Phase, deposed
from allotment_core.errors import AllotmentError
from allotment_core.rpc.alone import until_signal
from allotment_core.rpc.server import RpcServer
from allotment_core.rpc.service import Service

log = logging.getLogger(__name__)

OPEN_S = 5.0
PAUSE_S = 0.5
DROP_S = 10.0
"""How long a deposed leader's end may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadable:
    """What a process would serve."""

    name: str
    protos: Collection[FileDescriptor]
    """That describe its services."""
    database_url: str
    migrations: str
    build: Callable[[Database], Awaitable[Service]]
    """Loads what the service needs from the database, which nobody else changes by now."""

    @property
    def health_names(self) -> list[str]:
        served = [s.full_name for file in self.protos for s in file.services_by_name.values()]
        return [self.name, *served]


async def serve_leading(server: RpcServer, served: Leadable, clock: Clock) -> None:
    """Stands by, leads when nobody else does, and drains at the first SIGTERM or SIGINT.

    A database that is away is waited for. Raises: Unavailable (LEADERSHIP_LOST), what the database
    and the service raise when they are opened.
    """
    await server.stand_by(served.health_names)
    work = asyncio.create_task(_Work(server, served, clock).run(), name=f"lead {served.name}")
    ended = asyncio.create_task(until_signal(), name="signals")
    try:
        await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    except AllotmentError:
        async with asyncio.timeout(DROP_S):
            await server.stop(0)
        raise
    finally:
        for task in (work, ended):
            task.cancel()
        await asyncio.gather(work, ended, return_exceptions=True)
        await server.stop()


class _Work:
    def __init__(self, server: RpcServer, served: Leadable, clock: Clock) -> None:
        self._server = server
        self._served = served
        self._clock = clock
        self._changed = asyncio.Event()

    async def run(self) -> None:
        database = await self._open()
        service: Service | None = None
        try:
            leadership = database.candidate(self._changed.set)
            if leadership is not None:
                await self._until_leading(leadership)
            service = await self._build(database, leadership)
            await self._server.lead([service])
            await self._while_leading(leadership)
        finally:
            if service is None:
                await database.close()  # from now on the server does

    async def _open(self) -> Database:
        while True:
            try:
                return await Database.open(
                    self._served.database_url,
                    migrations=self._served.migrations,
                    clock=self._clock,
                    patience_s=OPEN_S,
                )
            except AllotmentError as e:
                if e.retry_after_s is None:
                    raise
                log.warning("database not open yet", extra={"error": e.message})
            await asyncio.sleep(PAUSE_S)

    async def _build(self, database: Database, leadership: Leadership | None) -> Service:
        while True:
            try:
                return await self._served.build(database)
            except AllotmentError as e:
                lost = leadership is not None and leadership.phase is not Phase.LEADING
                if e.retry_after_s is None or lost:
                    raise
                log.warning("service not loaded yet", extra={"error": e.message})
            await asyncio.sleep(PAUSE_S)

    async def _until_leading(self, leadership: Leadership) -> None:
        while leadership.phase is Phase.STANDING_BY:
            await self._changed.wait()
            self._changed.clear()
            if leadership.leader:
                self._server.set_ready()

    async def _while_leading(self, leadership: Leadership | None) -> None:
        while leadership is None or leadership.phase is Phase.LEADING:
            await self._changed.wait()
            self._changed.clear()
            if leadership is not None:
                self._server.set_acting(leadership.is_acting)
        raise deposed()
