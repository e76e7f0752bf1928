"""The allocator's books over each kind of database."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from allotment_allocator.adapters.sql_books import SqlBooks
from allotment_allocator.build import MIGRATIONS
from allotment_allocator.domain.ports import Books
from allotment_core.clock import SystemClock
from allotment_core.db import Database
from allotment_testkit.lease_books import BooksConformance

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
