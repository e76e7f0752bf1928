"""SQLite as Allotment runs it.

WAL, every commit synced, foreign keys, transactions under our control.
"""

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.event

from allotment_core.errors import InvalidArgument, clip

BUSY_TIMEOUT_MS = 5000
_JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024


def database_path(url: str) -> Path:
    """The file of a "sqlite:////absolute/path" URL. Raises: InvalidArgument for anything else."""
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        parsed = None
    if (
        parsed is None
        or parsed.get_backend_name() != "sqlite"
        or parsed.database in (None, "", ":memory:")
    ):
        raise InvalidArgument(
            f"database URL {clip(url)!r} is not supported: it has to be sqlite:////absolute/path",
            reason="UNSUPPORTED_DATABASE",
        )
    return Path(str(parsed.database))


def create_engine(path: Path, *, connections: int, writes: bool) -> sa.Engine:
    """An engine with a bounded pool.

    Transactions of a writing engine take the write lock at once.
    """
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=sa.pool.QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": 5.0},
    )
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
