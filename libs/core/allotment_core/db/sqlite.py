"""SQLite as Allotment runs it.

WAL, every commit synced, foreign keys, transactions under our control.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.event

from allotment_core.db.backend import Fate, Outcome
from allotment_core.db.storage_errors import storage_error
from allotment_core.errors import AllotmentError, FailedPrecondition

BUSY_TIMEOUT_MS = 5000
_JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024


class SqliteBackend:
    """A file. One process writes at a time; its COMMIT always tells what became of it."""

    savepoints_cost = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.label = path.stem

    def engine(self, *, connections: int, writes: bool) -> sa.Engine:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            poolclass=sa.pool.QueuePool,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"check_same_thread": False, "isolation_level": None, "timeout": 5.0},
        )
        # A writer takes the lock at once: it never has to give up in the middle.
        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

        def set_up(connection: sqlite3.Connection, _record: Any) -> None:
            for pragma in (
                f"busy_timeout = {BUSY_TIMEOUT_MS}",
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"journal_size_limit = {_JOURNAL_LIMIT_BYTES}",
                "trusted_schema = OFF",
            ):
                connection.execute(f"PRAGMA {pragma}")
            if not writes:
                connection.execute("PRAGMA query_only = ON")

        sqlalchemy.event.listen(engine, "connect", set_up)
        sqlalchemy.event.listen(engine, "begin", lambda c: c.exec_driver_sql(begin))
        return engine

    def create(self, engine: sa.Engine, patience_s: float | None = None) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Tenants' names and results are nobody else's business on this machine.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))

    @contextmanager
    def migrating(self, connection: sa.Connection) -> Iterator[None]:
        # BEGIN IMMEDIATE is the lock.
        # Tables are rebuilt by copy, drop and rename: the drop must not cascade to referring rows.
        _set_foreign_keys(connection, on=False)
        try:
            yield
        finally:
            _set_foreign_keys(connection, on=True)

    def settle_schema(self, connection: sa.Connection) -> Mapping[str, int]:
        broken: dict[str, int] = {}
        for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            broken[row[0]] = broken.get(row[0], 0) + 1
        return broken

    def turn(self, connection: sa.Connection, conflicts: int) -> nullcontext[None]:
        return nullcontext()

    def leader_row(self, holder: str, ttl_s: float) -> None:
        return None

    def fence(self, term: int, on_deposed: Callable[[], None]) -> None:
        raise FailedPrecondition(
            "a SQLite file belongs to one process: there is no leadership to fence; use PostgreSQL "
            "for several processes of a service",
            reason="NO_LEADERSHIP",
        )

    def savepoint(self, connection: sa.Connection, *, first: bool) -> None:
        if not first:
            connection.exec_driver_sql("RELEASE work")
        connection.exec_driver_sql("SAVEPOINT work")

    def undo(self, connection: sa.Connection) -> None:
        # After some errors (a full disk) SQLite has rolled the whole transaction back: then this
        # raises, and all works of the batch fail.
        connection.exec_driver_sql("ROLLBACK TO work")

    def is_intact(self, connection: sa.Connection) -> bool:
        return True

    def mark(self, connection: sa.Connection) -> str:
        return ""

    def outcome(self, engine: sa.Engine, mark: str) -> Outcome:
        return Outcome.ABORTED

    def fate(self, error: BaseException) -> Fate:
        return Fate.FAILED

    def storage_error(self, error: BaseException) -> AllotmentError | None:
        return storage_error(error, self.path)


def _set_foreign_keys(connection: sa.Connection, *, on: bool) -> None:
    raw = connection.connection.dbapi_connection
    if raw is not None:
        raw.cursor().execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")
