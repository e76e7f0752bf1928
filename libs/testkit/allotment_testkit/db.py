"""Databases for tests: a schema of a few statements, migrated as a service's is."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from allotment_core.clock import Clock, SystemClock
from allotment_core.db import Database

_MIGRATION = """
from alembic import op

from allotment_core.db import request_log

revision = "{number}"
is_additive = {additive}
down_revision = {previous!r}


def upgrade() -> None:
    if {first}:
        request_log.create(op)
    for statement in {statements!r}:
        op.execute(statement)
"""


def write_migration(
    folder: Path, number: int, statements: Sequence[str], *, additive: bool = False
) -> None:
    """Adds `versions/000N_step.py` to a folder; the first one creates the request log too."""
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    (versions / f"{number:04}_step.py").write_text(
        _MIGRATION.format(
            number=f"{number:04}",
            previous=f"{number - 1:04}" if number > 1 else None,
            first=number == 1,
            additive=additive,
            statements=list(statements),
        )
    )


@asynccontextmanager
async def opened_database(
    folder: Path, statements: Sequence[str], *, clock: Clock | None = None, url: str = ""
) -> AsyncIterator[Database]:
    """A database in `folder`, with the tables that the statements create; closed at the end.

    `url`: of another database than the folder's SQLite file; the migrations stay in the folder.
    """
    write_migration(folder / "migrations", 1, statements)
    database = await Database.open(
        url or f"sqlite:///{folder}/test.db",
        migrations=folder / "migrations",
        clock=clock or SystemClock(),
    )
    try:
        yield database
    finally:
        await database.close()
