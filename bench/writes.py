"""Durable writes per second: groups on one connection, beside one transaction each on many.

    python -m bench.writes [--count 2000] [--callers 1 8 64] [--connections 4 8 16]

A write reads a counter, changes it and adds a row of 500 bytes. Ours: `Database.write`, where
whatever waits shares one SERIALIZABLE transaction. Beside it: threads with a connection each, one
SERIALIZABLE transaction for each write, tried again after a serialization failure. PostgreSQL is
ALLOTMENT_TEST_POSTGRES, or one that pip brings, with fsync on. There is no limit: where round trips
are slow (a distant server, a machine with more to do than cores) many connections win, where they
are quick the groups do, which conflict with nobody.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from allotment_testkit.db import opened_database
from allotment_testkit.postgres import fresh_database, postgres_server, why_unavailable

COUNTERS = 64
_TABLES = (
    "CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)",
    "INSERT INTO counter VALUES " + ", ".join(f"({i}, 0)" for i in range(COUNTERS)),
)
_READ = sa.text("SELECT value FROM counter WHERE id = :i")
_CHANGE = sa.text("UPDATE counter SET value = :v WHERE id = :i")
_ADD = sa.text("INSERT INTO item VALUES (:i, :b)")


def work(number: int) -> Callable[[sa.Connection], None]:
    def run(connection: sa.Connection) -> None:
        counter = number % COUNTERS
        value = connection.execute(_READ, {"i": counter}).scalar_one()
        connection.execute(_CHANGE, {"i": counter, "v": value + 1})
        connection.execute(_ADD, {"i": number, "b": "x" * 500})

    return run


async def in_groups(url: str, count: int, callers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with opened_database(Path(folder), _TABLES, url=url) as database:
            numbers = iter(range(count))

            async def caller() -> None:
                for number in numbers:
                    await database.write(work(number))

            started = time.perf_counter()
            await asyncio.gather(*(caller() for _ in range(callers)))
            return count / (time.perf_counter() - started)


def one_by_one(url: str, count: int, connections: int) -> float:
    engine = sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"),
        pool_size=connections,
        max_overflow=0,
        isolation_level="SERIALIZABLE",
        use_native_hstore=False,
    )
    with engine.begin() as connection:
        for statement in _TABLES:
            connection.execute(sa.text(statement))
    numbers = iter(range(count))
    taking = threading.Lock()

    def thread() -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            while True:
                try:
                    with engine.begin() as connection:
                        work(number)(connection)
                    break
                except sa.exc.OperationalError:
                    continue

    threads = [threading.Thread(target=thread) for _ in range(connections)]
    started = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    rate = count / (time.perf_counter() - started)
    engine.dispose()
    return rate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--connections", type=int, nargs="+", default=[4, 8, 16])
    arguments = parser.parse_args()
    if missing := why_unavailable():
        print(missing)
        return 0
    with postgres_server(durable=True) as server:
        best = 0.0
        for connections in arguments.connections:
            with fresh_database(server) as url:
                rate = one_by_one(url, arguments.count, connections)
            best = max(best, rate)
            print(f"one by one, {connections:2} connections: {rate:7.0f}/s", flush=True)
        for callers in arguments.callers:
            with fresh_database(server) as url:
                rate = asyncio.run(in_groups(url, arguments.count, callers))
            print(
                f"in groups, {callers:3} callers: {rate:7.0f}/s, ratio {rate / best:.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
