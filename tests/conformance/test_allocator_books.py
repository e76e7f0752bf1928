"""The allocator's books over each kind of database."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import pytest
import sqlalchemy as sa

from allotment_allocator.adapters.sql_books import SqlBooks
from allotment_allocator.build import MIGRATIONS
from allotment_allocator.domain.ports import Books
from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_testkit.lease_books import LOCAL, NOW, TTL_S, BooksConformance, lease, tenant

T = TypeVar("T")


class SqlBooksStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, work: Callable[[Books], T]) -> T:
        return await self._database.read(lambda connection: work(SqlBooks(connection)))

    async def write(self, work: Callable[[Books], T]) -> T:
        return await self._database.write(lambda connection: work(SqlBooks(connection)))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlBooksStore]:
    database = await Database.open(url, migrations=MIGRATIONS, clock=SystemClock())
    yield SqlBooksStore(database)
    await database.close()


class TestBooks(BooksConformance):
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[SqlBooksStore]:
        async with opened(database_url) as store:
            yield store

    @pytest.fixture
    async def twin(self, store: SqlBooksStore, database_url: str) -> AsyncIterator[SqlBooksStore]:
        async with opened(database_url) as twin:
            yield twin


async def test_of_leases_that_are_known_only_newer_revisions_are_read(database_url: str) -> None:
    """What is known is taken as it is, at its revision alone."""
    database = await Database.open(database_url, migrations=MIGRATIONS, clock=SystemClock())
    same, older = lease("l1"), lease("l2", after_s=1)
    newer = older.granted_at(LOCAL, NOW, TTL_S)
    marked = replace(same, slot_count=99)

    def write(connection: sa.Connection) -> None:
        books = SqlBooks(connection)
        books.put_tenant(tenant())
        books.put_leases([same, newer])

    await database.write(write)
    known = {str(same.name): marked, str(older.name): older}
    found = await database.read(lambda c: SqlBooks(c, known).live_leases())
    assert list(found) == [marked, newer]
    await database.close()
