"""PostgreSQL as Allotment runs it.

Each service has a schema of its own. Writing transactions are SERIALIZABLE, so that a work decides
as if it ran alone, whatever other processes write; reads see one snapshot.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
import sqlalchemy.event
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError

from allotment_core.db import postgres_leadership
from allotment_core.db.backend import Fate, Outcome, connected
from allotment_core.db.leadership import deposed
from allotment_core.db.patience import Patience
from allotment_core.db.postgres_errors import PostgresErrors
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    clip,
)

OPEN_PATIENCE_S = 30.0
"""How long a start waits for a server that is not there yet."""
OUTCOME_PATIENCE_S = 4.0
"""How long the fate of an unanswered COMMIT is asked for."""
ALONE_AFTER = 3
"""A transaction that lost this often runs while no other one does."""
_OLDEST_VERSION = 130_000
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SESSION = {
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
}
_CONNECT = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""What libpq does unless the URL says otherwise: a silent server is noticed within seconds."""

_MARK = "allotment_mark"
_LINGERING = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %s AND backend_xid = %s::xid8::xid AND usename = current_user
"""
_NOT_BY_BYTES = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_collation k ON k.oid = a.attcollation
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
  AND a.attnum > 0 AND NOT a.attisdropped AND k.collname <> 'C'
ORDER BY c.relname, a.attnum
"""


class PostgresBackend(PostgresErrors):
    """A schema of a database on a server that others use too."""

    savepoints_cost = True

    def __init__(self, url: sa.URL, schema: str) -> None:
        """Use `of`."""
        super().__init__(
            schema=schema,
            place=f"database {url.database!r} at {url.host or 'the local socket'}",
            password=url.password or "",
        )
        self._url = url
        self._fence = sql.Composed([])
        self._on_deposed: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, url: sa.URL, default_schema: str) -> "PostgresBackend":
        """The URL may have `schema=name`, and what libpq takes (sslmode, sslrootcert, ...).

        Raises: InvalidArgument (INVALID_DATABASE_URL).
        """
        schema = url.query.get("schema", default_schema)
        if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
            raise InvalidArgument(
                f"schema {clip(schema)!r} of the database URL has to be 1 to 63 of a-z, 0-9 and _",
                reason="INVALID_DATABASE_URL",
            )
        url = url.set(drivername="postgresql+psycopg").difference_update_query(["schema"])
        try:
            psycopg.conninfo.make_conninfo("", **{name: "" for name in url.query})
        except psycopg.ProgrammingError as e:
            raise InvalidArgument(
                f"the database URL is not valid: {clip(e, 200)}", reason="INVALID_DATABASE_URL"
            ) from None
        return cls(url, schema)

    def engine(self, *, connections: int, writes: bool) -> sa.Engine:
        defaults = {n: v for n, v in _CONNECT.items() if n not in self._url.query}
        defaults.setdefault("application_name", f"allotment/{self.schema}")
        engine = sa.create_engine(
            self._url,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,
            use_native_hstore=False,
            connect_args={"autocommit": True, **defaults},
        )
        settings = self._settings(_SESSION)
        sqlalchemy.event.listen(engine, "connect", lambda raw, _: raw.execute(settings))
        sqlalchemy.event.listen(engine, "begin", self._begin_writing if writes else _begin_reading)
        return engine

    def _settings(self, session: Mapping[str, str]) -> sql.Composed:
        return _statements(
            sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)),
            *(
                sql.SQL("SET {} = {}").format(sql.Identifier(n), sql.Literal(v))
                for n, v in session.items()
            ),
        )

    def _begin_writing(self, connection: sa.Connection) -> None:
        raw = _raw(connection)
        fence, on_deposed = self._fence, self._on_deposed
        begin = _statements(
            sql.SQL("BEGIN ISOLATION LEVEL SERIALIZABLE"),
            # Its number is asked for here, where that costs no round trip.
            sql.SQL("SELECT pg_advisory_xact_lock_shared({}), pg_current_xact_id()::text").format(
                self._key("turn")
            ),
            fence,
        )
        cursor = raw.execute(begin, prepare=False)
        cursor.nextset()
        [(_, xid)] = cursor
        connection.info[_MARK] = f"{xid}/{raw.info.backend_pid}"
        if cursor.nextset() and cursor.fetchone() == (False,):
            on_deposed()
            raise deposed()

    def leader_row(self, holder: str, ttl_s: float) -> postgres_leadership.PostgresLeaderRow:
        return postgres_leadership.PostgresLeaderRow(
            self._connect_alone, self, holder=holder, turn_key=self._key("turn"), ttl_s=ttl_s
        )

    def _connect_alone(self) -> psycopg.Connection[Any]:
        """A connection that no engine knows, in autocommit."""
        _, parameters = self._url.get_dialect()().create_connect_args(self._url)
        defaults = {"application_name": f"allotment/{self.schema}", **postgres_leadership.CONNECT}
        raw: psycopg.Connection[Any] = psycopg.connect(
            **{**defaults, **parameters, "autocommit": True}
        )
        raw.execute(self._settings(postgres_leadership.SESSION))
        return raw

    def fence(self, term: int, on_deposed: Callable[[], None]) -> None:
        self._on_deposed = on_deposed
        self._fence = postgres_leadership.fence(term)

    def _key(self, purpose: str) -> int:
        digest = hashlib.blake2b(f"allotment/{self.schema}/{purpose}".encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "big", signed=True)

    def create(self, engine: sa.Engine, patience_s: float | None = None) -> None:
        patience = Patience(OPEN_PATIENCE_S if patience_s is None else patience_s)
        while True:
            try:
                with connected(engine, self) as connection:
                    self._create_schema(_raw(connection))
                return
            except (DBAPIError, psycopg.Error) as e:
                refused = self.fate(e) is not Fate.LOST or self.is_refusal(e)
                if refused or not patience.pause():
                    raise self.opening_error(e, for_good=refused) from e
                engine.dispose()

    def _create_schema(self, raw: psycopg.Connection[Any]) -> None:
        encoding = raw.info.parameter_status("server_encoding")
        if raw.info.server_version < _OLDEST_VERSION or encoding != "UTF8":
            raise FailedPrecondition(
                f"the {self.place} is PostgreSQL {raw.info.server_version // 10_000} with the "
                f"encoding {encoding}; it has to be 13 or newer with UTF8",
                reason="UNSUPPORTED_DATABASE",
            )
        there = raw.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.schema,))
        if there.fetchone() is None:
            with self._locked(raw, "schema"):
                raw.execute(
                    sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.schema))
                )

    @contextmanager
    def _locked(self, raw: psycopg.Connection[Any], purpose: str) -> Iterator[None]:
        """Outside a transaction: one that waited inside would go on with an old snapshot."""
        key = self._key(purpose)
        raw.execute("SELECT pg_advisory_lock(%s)", (key,))
        try:
            yield
        finally:
            try:
                raw.execute("SELECT pg_advisory_unlock(%s)", (key,))
            except psycopg.Error:
                raw.close()  # its locks go with it

    @contextmanager
    def migrating(self, connection: sa.Connection) -> Iterator[None]:
        raw = _raw(connection)
        raw.execute("SET lock_timeout = '10min'; SET statement_timeout = 0", prepare=False)
        try:
            with self._locked(raw, "schema"):
                yield
        finally:
            connection.invalidate()  # the next one has the timeouts that all have

    def settle_schema(self, connection: sa.Connection) -> Mapping[str, int]:
        # Pages and ranges of names go by bytes, as on SQLite, whatever the database's language.
        changes: dict[str, list[sql.Composed]] = {}
        for table, column, type_ in _raw(connection).execute(_NOT_BY_BYTES):
            change = sql.SQL('ALTER COLUMN {} TYPE {} COLLATE "C"')
            changes.setdefault(table, []).append(
                change.format(sql.Identifier(column), sql.SQL(type_))
            )
        for table, columns in changes.items():
            altered = sql.SQL("ALTER TABLE {} {}")
            _raw(connection).execute(
                altered.format(sql.Identifier(table), sql.SQL(", ").join(columns))
            )
        return {}

    @contextmanager
    def turn(self, connection: sa.Connection, conflicts: int) -> Iterator[None]:
        if conflicts < ALONE_AFTER:
            yield
            return
        with self._locked(_raw(connection), "turn"):
            yield

    def savepoint(self, connection: sa.Connection, *, first: bool) -> None:
        again = "" if first else "RELEASE work; "
        _raw(connection).execute(f"{again}SAVEPOINT work", prepare=False)

    def undo(self, connection: sa.Connection) -> None:
        _raw(connection).execute("ROLLBACK TO work", prepare=False)

    def is_intact(self, connection: sa.Connection) -> bool:
        return _raw(connection).info.transaction_status is TransactionStatus.INTRANS

    def mark(self, connection: sa.Connection) -> str:
        return str(connection.info[_MARK])

    def outcome(self, engine: sa.Engine, mark: str) -> Outcome:
        xid, _, pid = mark.partition("/")
        patience = Patience(OUTCOME_PATIENCE_S)
        while True:
            try:
                with connected(engine, self) as connection:
                    raw = _raw(connection)
                    status = raw.execute("SELECT pg_xact_status(%s::xid8)", (xid,)).fetchone()
                    if status and status[0] == "committed":
                        return Outcome.COMMITTED
                    if status and status[0] == "aborted":
                        return Outcome.ABORTED
                    # The old session has not noticed yet that we are gone, and may hold locks.
                    raw.execute(_LINGERING, (int(pid), xid))
            except (DBAPIError, psycopg.Error) as e:
                if self.fate(e) is not Fate.LOST:
                    return Outcome.UNKNOWN  # such as a server that has never had this transaction
                engine.dispose()
            if not patience.pause():
                return Outcome.UNKNOWN

    def opening_error(self, error: BaseException, *, for_good: bool) -> AllotmentError:
        """Told to the administrator who starts the service."""
        error_class = FailedPrecondition if for_good else Unavailable
        return error_class(
            f"the {self.place} can't be used: {self.cleaned(error)}; "
            "check the URL, the role's password and rights, and that the server runs",
            reason="DATABASE_UNAVAILABLE",
            retry_after_s=None if for_good else 1.0,
        )


def _raw(connection: sa.Connection) -> psycopg.Connection[Any]:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


def _begin_reading(connection: sa.Connection) -> None:
    _raw(connection).execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", prepare=False)


def _statements(*parts: sql.Composable) -> sql.Composed:
    """One round trip; without parameters the server takes several statements at once."""
    return sql.SQL("; ").join(parts)
