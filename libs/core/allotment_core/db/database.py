"""A service's database."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.exc import IntegrityError

from allotment_core.calls import Call, current_call
from allotment_core.clock import Clock
from allotment_core.db import holders, migration, request_log
from allotment_core.db.backend import Backend
from allotment_core.db.leadership import Leadership, LeaderTimes
from allotment_core.db.reader import READERS, Readers
from allotment_core.db.urls import backend_of
from allotment_core.db.writer import GroupCommitWriter
from allotment_core.errors import AllotmentError, Unavailable

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_PRUNE_EVERY_S = 3600.0


class Database:
    """Works are plain functions of a SQLAlchemy connection, run in threads of the database.

    A work must not commit, nor go on after a statement of it has failed. It may run more than once:
    when its caller repeats the request, when another process's write got in between, when the
    server went away. What it decides has to come out of the connection and its arguments.
    """

    def __init__(
        self, backend: Backend, engines: tuple[sa.Engine, sa.Engine], clock: Clock
    ) -> None:
        """Use `open`."""
        self.name = backend.name
        self._backend = backend
        self._clock = clock
        self._leadership: Leadership | None = None
        self._engines = engines
        self._writer = GroupCommitWriter(engines[0], backend)
        self._readers = Readers(engines[1], backend)
        self._prune_due = clock.monotonic()

    @classmethod
    async def open(
        cls, url: str, *, migrations: str | Path, clock: Clock, patience_s: float | None = None
    ) -> "Database":
        """Opens (or creates) the database and brings it to the newest schema.

        `url` is sqlite:////absolute/path, or postgresql://user:password@host/database with
        `schema=name` among its options; without it the schema is named after the service, so that
        all services can have one database. `migrations` is the package, or the folder, with
        `versions/0001_*.py`.
        `patience_s`: how long a server that is not there is waited for; None: 30 s.
        Raises: FailedPrecondition (SCHEMA_TOO_NEW; DATABASE_UNAVAILABLE for good), Unavailable,
        InvalidArgument (UNSUPPORTED_DATABASE, INVALID_DATABASE_URL), storage errors.
        """
        backend = backend_of(url, migration.schema_name(migrations))
        versions = migration.versions_folder(migrations)
        return await asyncio.to_thread(cls._open, backend, versions, clock, patience_s)

    @classmethod
    def _open(
        cls, backend: Backend, versions: Path, clock: Clock, patience_s: float | None
    ) -> "Database":
        writer = backend.engine(connections=1, writes=True)
        try:
            backend.create(writer, patience_s)
            migration.migrate(writer, versions, backend)
        except BaseException as e:
            writer.dispose()
            error = backend.storage_error(e)
            if error is None:
                raise
            raise error from e
        readers = backend.engine(connections=READERS, writes=False)
        return cls(backend, (writer, readers), clock)

    def candidate(
        self, on_change: Callable[[], None], times: LeaderTimes | None = None
    ) -> Leadership | None:
        """This process among those that could write; None: no other one can have the database.

        Until it leads, nothing may be written; once it does, `read` and `write` raise Unavailable
        (STANDBY, LEADERSHIP_LOST) while it may not act. `on_change` is called in the loop that
        this is called in. The leadership is given back by `close`.
        """
        times = times or LeaderTimes()
        row = self._backend.leader_row(holders.own_name(), times.ttl_s)
        if row is None:
            return None
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_change)

        leadership = Leadership(
            row,
            self._clock,
            times,
            has_died=holders.has_died,
            on_leading=self._backend.fence,
            on_change=tell,
        )
        self._leadership = leadership
        leadership.start()
        return leadership

    @property
    def may_act(self) -> bool:
        """Whether no other process leads, as far as anybody can know."""
        return self._leadership is None or self._leadership.is_acting

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """The work's result on a snapshot: it sees every write that was answered before.

        Raises: what the work raises, or a storage error.
        """
        if self._leadership is not None:
            self._leadership.check()
        return await self._readers.run(work)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """The work's result, once it is durable: all of the work's changes or none.

        Raises: what the work raises, or a storage error; then nothing of it is stored.
        """
        if self._leadership is not None:
            self._leadership.check()
        return await self._writer.submit(work)

    async def respond(self, work: Callable[[sa.Connection], T], to_response: Callable[[T], M]) -> M:
        """Like `write`, for the one change of a mutating call; its answer is stored with it.

        A repeated call (same tenant, method and request_id) gets the stored answer, and `work` does
        not run. `to_response` runs in the transaction too and has to be pure.
        Raises: InvalidArgument (REQUEST_ID_REUSED) when the id came with another body.
        """
        call = current_call.get()
        if call is None or not call.request_id:
            return await self.write(lambda connection: to_response(work(connection)))
        if call.responded:
            raise RuntimeError(f"{call.rpc} responds twice: all its changes belong into one work")
        await self._prune()
        try:
            response = await self.write(lambda c: self._respond(c, call, work, to_response))
        except Unavailable:
            raise  # the caller repeats the request, and finds the answer if there is one
        except (AllotmentError, IntegrityError):
            # Another process may have answered the same request in between: work then failed
            # because it is done.
            stored = await self.stored_response(call)
            if stored is None:
                raise
            response = cast(M, stored)
        call.responded = True
        return response

    def _respond(
        self,
        connection: sa.Connection,
        call: Call,
        work: Callable[[sa.Connection], T],
        to_response: Callable[[T], M],
    ) -> M:
        stored = _find(connection, call)
        if stored is not None:
            return stored  # type: ignore[return-value]
        response = to_response(work(connection))
        request_log.store(
            connection,
            tenant=_tenant(call),
            rpc=call.rpc,
            request_id=call.request_id,
            body_hash=call.body_hash,
            response=response.SerializeToString(),
            now=self._clock.now(),
        )
        return response

    async def stored_response(self, call: Call) -> Message | None:
        """What a repeated call was answered before; None for a new one.

        Raises: InvalidArgument (REQUEST_ID_REUSED).
        """
        return await self.read(lambda connection: _find(connection, call))

    async def _prune(self) -> None:
        if self._clock.monotonic() < self._prune_due:
            return
        self._prune_due = self._clock.monotonic() + _PRUNE_EVERY_S
        now = self._clock.now()
        count = await self.write(lambda connection: request_log.prune(connection, now))
        if count >= request_log.PRUNED_AT_ONCE:
            self._prune_due = self._clock.monotonic()

    async def close(self) -> None:
        """Finishes the writes that wait, gives back the leadership, closes all connections."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        if self._leadership is not None:
            self._leadership.end()
        self._readers.close()
        for engine in self._engines:
            engine.dispose()


def _find(connection: sa.Connection, call: Call) -> Message | None:
    stored = request_log.find(
        connection,
        tenant=_tenant(call),
        rpc=call.rpc,
        request_id=call.request_id,
        body_hash=call.body_hash,
    )
    if stored is None:
        return None
    if call.response_class is None:
        raise RuntimeError(f"{call.rpc} has a request_id but no response class")
    return call.response_class.FromString(stored)


def _tenant(call: Call) -> str:
    return str(call.principal.tenant) if call.principal else ""
