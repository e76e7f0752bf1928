"""Which database a URL means. URLs hold passwords: no error repeats one."""

import importlib.util
from pathlib import Path

import sqlalchemy as sa

from allotment_core.db.backend import Backend
from allotment_core.db.sqlite import SqliteBackend
from allotment_core.errors import InvalidArgument, clip

_POSTGRES = ("postgresql", "postgresql+psycopg", "postgres")


def backend_of(url: str, default_schema: str) -> Backend:
    """The database of a "sqlite:////absolute/path" or "postgresql://..." URL.

    Raises: InvalidArgument (UNSUPPORTED_DATABASE) for anything else.
    """
    try:
        parsed = sa.engine.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise _unsupported(url) from None
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return SqliteBackend(Path(str(parsed.database)))
    if parsed.drivername in _POSTGRES:
        if importlib.util.find_spec("psycopg") is None:
            raise InvalidArgument(
                "PostgreSQL needs the package psycopg: pip install 'allotment[postgres]'",
                reason="UNSUPPORTED_DATABASE",
            )
        from allotment_core.db.postgres import PostgresBackend  # noqa: PLC0415 (optional, heavy)

        return PostgresBackend.of(parsed, default_schema)
    raise _unsupported(url)


def _unsupported(url: str) -> InvalidArgument:
    scheme, found, _ = url.partition("://")
    what = f"with {clip(scheme, 24)}://" if found else "without ://"
    return InvalidArgument(
        f"a database URL {what} is not supported: it has to be sqlite:////absolute/path or "
        "postgresql://user:password@host/database",
        reason="UNSUPPORTED_DATABASE",
    )
