"""The leadership's row on PostgreSQL, and the check of it in every transaction.

`term` is the row's key. A writing transaction locks the row FOR KEY SHARE, which a renewal does not
touch and a take-over has to wait for: until the transaction has ended, the term goes on.
"""

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from allotment_core.db.leadership import Reign
from allotment_core.db.postgres_errors import PostgresErrors
from allotment_core.errors import Unavailable

_TABLE = """
CREATE TABLE IF NOT EXISTS leadership (
    term bigint PRIMARY KEY,
    only_row boolean NOT NULL UNIQUE DEFAULT true CHECK (only_row),
    holder text COLLATE "C" NOT NULL,
    expire_time timestamptz NOT NULL,
    session_pid integer NOT NULL,
    session_start timestamptz NOT NULL
);
INSERT INTO leadership (term, holder, expire_time, session_pid, session_start)
VALUES (0, '', clock_timestamp(), 0, clock_timestamp()) ON CONFLICT DO NOTHING
"""
_READ = """
SELECT term, holder, expire_time <= clock_timestamp(), NOT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE pid = leadership.session_pid AND backend_start = leadership.session_start
) FROM leadership
"""
_OWN_SESSION = """
expire_time = clock_timestamp() + make_interval(secs => %(ttl_s)s), session_pid = pg_backend_pid(),
session_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
"""
_TAKE = f"""
UPDATE leadership SET term = term + 1, holder = %(holder)s, {_OWN_SESSION}
WHERE term = %(term)s RETURNING term
"""
_RENEW = f"UPDATE leadership SET {_OWN_SESSION} WHERE term = %(term)s RETURNING term"
_RELEASE = "UPDATE leadership SET expire_time = clock_timestamp() WHERE term = %(term)s"
_END_WRITERS = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid()
  AND ((l.classid::bigint << 32) | l.objid::bigint) = %(turn)s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.usename = current_user
"""
_TRIES = 20
SESSION = {"lock_timeout": "250ms", "statement_timeout": "2s"}
CONNECT = {
    "connect_timeout": "2",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "4000",
}
"""A renewal that hangs is worth nothing."""


def fence(term: int) -> sql.Composed:
    """A statement whose row says whether the term goes on; it does until the transaction's end."""
    return sql.SQL("SELECT EXISTS (SELECT 1 FROM leadership WHERE term = {} FOR KEY SHARE)").format(
        term
    )


class PostgresLeaderRow:
    """On a connection of its own, in autocommit: it waits for no other work of the service."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        errors: PostgresErrors,
        *,
        holder: str,
        turn_key: int,
        ttl_s: float,
    ) -> None:
        """`connect` opens a connection to the schema. `turn_key`: of the advisory lock that every
        writing transaction holds.
        """
        self._connect = connect
        self._errors = errors
        self._values = {"holder": holder, "ttl_s": ttl_s, "turn": turn_key}
        self._connection: psycopg.Connection[Any] | None = None

    def read(self) -> Reign:
        row = self._ask(_READ)
        assert row is not None  # whoever connects makes it
        return Reign(term=row[0], holder=row[1], is_over=row[2], is_absent=row[3])

    def take(self, after: Reign) -> int | None:
        for _ in range(_TRIES):
            try:
                row = self._ask(_TAKE, term=after.term)
            except _HeldError:
                # By a transaction of the deposed leader, which may stand still for long.
                self._ask(_END_WRITERS)
            else:
                return int(row[0]) if row else None
        return None

    def renew(self, term: int) -> bool:
        try:
            return self._ask(_RENEW, term=term) is not None
        except _HeldError as e:
            raise Unavailable(
                f"somebody is taking the leadership of {self._errors.name}",
                reason="LEADERSHIP_HELD",
            ) from e

    def release(self, term: int) -> None:
        self._ask(_RELEASE, term=term)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, statement: str, **values: object) -> tuple[Any, ...] | None:
        """The statement's first row. Raises: _HeldError, storage errors."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.execute(_TABLE)
            cursor = self._connection.execute(statement, self._values | values)
            return cursor.fetchone() if cursor.description else None
        except psycopg.errors.LockNotAvailable as e:
            raise _HeldError from e
        except psycopg.Error as e:
            self.close()
            raise self._errors.storage_error(e) or e from e


class _HeldError(Exception):
    """Others hold the row."""
