"""The dataset service's store over each kind of database."""

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_dataset.adapters.sql_store import SqlStore
from allotment_dataset.adapters.tables import metadata
from allotment_dataset.build import MIGRATIONS
from allotment_testkit.dataset_records import StoreConformance


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, migrations=MIGRATIONS, clock=SystemClock())
    yield opened
    await opened.close()


class TestStore(StoreConformance):
    @pytest.fixture
    def store(self, database: Database) -> SqlStore:
        return SqlStore(database)


async def test_the_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    def columns(connection: sa.Connection) -> dict[str, set[tuple[str, bool, bool]]]:
        inspector = sa.inspect(connection)
        found = {}
        for table in metadata.tables:
            keys = set(inspector.get_pk_constraint(table)["constrained_columns"])
            found[table] = {
                (c["name"], bool(c["nullable"]), c["name"] in keys)
                for c in inspector.get_columns(table)
            }
        return found

    wanted = {
        table.name: {(c.name, bool(c.nullable), c.primary_key) for c in table.columns}
        for table in metadata.tables.values()
    }
    assert await database.read(columns) == wanted
