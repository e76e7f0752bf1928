"""A pytest plugin: services that a test puts on SQLite files run on PostgreSQL databases instead.

    pytest -p allotment_testkit.on_postgres tests/integration/test_controller_sessions.py

Each file's path has its own database for the whole run, so that restarts find their rows.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_testkit import postgres

_open = Database.open


@pytest.fixture(scope="session", autouse=True)
def services_on_postgres() -> Iterator[None]:
    """For the whole run."""
    with ExitStack() as stack:
        server = stack.enter_context(postgres.postgres_server())
        databases: dict[str, str] = {}

        async def open_there(url: str, *, migrations: str | Path, clock: Clock) -> Database:
            if url.startswith("sqlite:") and isinstance(migrations, str):
                key = hashlib.sha256(url.encode()).hexdigest()
                if key not in databases:
                    databases[key] = stack.enter_context(postgres.fresh_database(server))
                url = databases[key]
            return await _open(url, migrations=migrations, clock=clock)

        replaced: Any = staticmethod(open_there)
        stack.callback(setattr, Database, "open", _open)
        setattr(Database, "open", replaced)  # noqa: B010 (a class method, for mypy)
        yield
