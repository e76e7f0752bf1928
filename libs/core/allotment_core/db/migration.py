"""Brings a database to the code's schema, and refuses one that is newer.

A service has `adapters/migrations/versions/0001_what.py`, `0002_...`: Alembic revisions in one
line, whose `revision` is the file's number ("0001"). There is no env.py: all of them run in one
transaction. Alembic itself is imported only when there is something to do.

A revision with `is_additive = True` leaves everything that the code of the version before needs:
it makes tables, and columns that may be null or have a default. The database notes the oldest
revision whose code still works with it, and that code takes it as it is: the old version goes on
during an upgrade, and can come back after one.
"""

import importlib.util
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from allotment_core.db.backend import Backend
from allotment_core.errors import FailedPrecondition

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

_VERSION_TABLE = "alembic_version"
_SUPPORT_TABLE = "schema_support"
_ALEMBIC = threading.Lock()
"""`alembic.op` stands for one migration of the whole process: several databases take turns."""


def versions_folder(migrations: str | Path) -> Path:
    """The `versions` folder of a package ("allotment_dataset.adapters.migrations") or of a path."""
    if isinstance(migrations, str) and "/" not in migrations:
        spec = importlib.util.find_spec(migrations)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{migrations} is not a package")
        migrations = next(iter(spec.submodule_search_locations))
    return Path(migrations) / "versions"


def schema_name(migrations: str | Path) -> str:
    """Where a server keeps the tables of these migrations, unless the URL says it."""
    if isinstance(migrations, Path) or "/" in migrations:
        return "allotment"
    return migrations.partition(".")[0]


def migrate(engine: sa.Engine, versions: Path, backend: Backend) -> bool:
    """Runs the revisions that the database lacks, all or none; whether there were any.

    A newer database is left as it is. Raises: FailedPrecondition (SCHEMA_TOO_NEW) when it is so new
    that this code does not work with it.
    """
    files = {f.name.split("_")[0]: f for f in sorted(versions.glob("[0-9]*_*.py"))}
    if not files:
        raise ValueError(f"no migrations in {versions}")
    head = max(files)
    with engine.connect() as connection:
        if current_revision(connection) == head:
            return False
        connection.rollback()
        with backend.migrating(connection), connection.begin():
            return _upgrade(connection, files, head, backend)


def current_revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None for an empty one."""
    if not sa.inspect(connection).has_table(_VERSION_TABLE):
        return None
    return connection.exec_driver_sql(f"SELECT version_num FROM {_VERSION_TABLE}").scalar()


def _upgrade(
    connection: sa.Connection, files: Mapping[str, Path], head: str, backend: Backend
) -> bool:
    from alembic.operations import Operations  # noqa: PLC0415 (not needed on most starts)
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

    current = current_revision(connection)  # again: now we hold the lock
    if current is not None and current not in files:
        _check_support(connection, current, head, backend)
        return False
    pending = [number for number in sorted(files) if current is None or number > current]
    context = MigrationContext.configure(connection)
    modules = {number: _load(number, file) for number, file in sorted(files.items())}
    with _ALEMBIC, Operations.context(context):
        for number in pending:
            modules[number].upgrade()
    if current is None:
        connection.exec_driver_sql(
            f"CREATE TABLE {_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
        )
    connection.exec_driver_sql(f"DELETE FROM {_VERSION_TABLE}")
    connection.execute(sa.text(f"INSERT INTO {_VERSION_TABLE} VALUES (:head)"), {"head": head})
    _note_support(connection, modules)
    broken = backend.settle_schema(connection)
    if broken:
        raise FailedPrecondition(
            f"{backend.name} can't be migrated to schema {head}: {sum(broken.values())} rows refer "
            f"to rows that are not there (the first in table {next(iter(broken))}); nothing was "
            "changed",
            reason="MIGRATION_FAILED",
        )
    return bool(pending)


def _note_support(connection: sa.Connection, modules: Mapping[str, "ModuleType"]) -> None:
    oldest = ""
    for number, module in modules.items():
        if not (oldest and getattr(module, "is_additive", False)):
            oldest = number
    connection.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {_SUPPORT_TABLE} (oldest_code VARCHAR(32) NOT NULL)"
    )
    connection.exec_driver_sql(f"DELETE FROM {_SUPPORT_TABLE}")
    connection.execute(
        sa.text(f"INSERT INTO {_SUPPORT_TABLE} VALUES (:oldest)"), {"oldest": oldest}
    )


def _check_support(connection: sa.Connection, current: str, head: str, backend: Backend) -> None:
    oldest = None
    if sa.inspect(connection).has_table(_SUPPORT_TABLE):
        oldest = connection.exec_driver_sql(f"SELECT oldest_code FROM {_SUPPORT_TABLE}").scalar()
    if oldest is None or head < oldest:
        raise FailedPrecondition(
            f"{backend.name} was written by a newer version (its schema is {current}, this version "
            f"knows up to {head}); start the version that wrote it, or restore an older backup",
            reason="SCHEMA_TOO_NEW",
        )
    log.info(
        "the schema is a newer version's",
        extra={"database": backend.name, "schema": current, "known": head},
    )


def _load(number: str, path: Path) -> "ModuleType":
    spec = importlib.util.spec_from_file_location(f"allotment_migration_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if getattr(module, "revision", None) != number:
        raise ValueError(f"{path}: revision has to be {number!r}, the number of the file")
    return module
