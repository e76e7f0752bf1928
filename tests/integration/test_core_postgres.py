"""PostgreSQL: writers that race, connections that break, servers that restart, secrets."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from allotment_core.clock import SystemClock
from allotment_core.db import Database, postgres, reader, writer
from allotment_core.errors import (
    AllotmentError,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from allotment_testkit.db import opened_database, write_migration
from allotment_testkit.postgres import (
    PostgresServer,
    fresh_database,
    own_server,
    why_unavailable,
    with_database,
)
from allotment_testkit.postgres_wire import CommitCutter, Cut, commit_cutter

TABLES = [
    "CREATE TABLE item (name TEXT PRIMARY KEY)",
    "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)",
    "INSERT INTO counter VALUES (1, 0), (2, 0)",
]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why_unavailable():
        pytest.skip(why_unavailable())
    with own_server() as running:
        yield running


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    with fresh_database(server.tcp_url) as fresh:
        yield fresh


@pytest.fixture
async def database(tmp_path: Path, url: str) -> AsyncIterator[Database]:
    async with opened_database(tmp_path, TABLES, url=url) as opened:
        yield opened


def add(name: str) -> Callable[[sa.Connection], int]:
    return lambda c: c.execute(sa.text("INSERT INTO item VALUES (:n)"), {"n": name}).rowcount


def names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text("SELECT name FROM item ORDER BY name")).scalars())


def value(connection: sa.Connection, counter: int = 1) -> int:
    found = connection.execute(sa.text("SELECT value FROM counter WHERE id = :i"), {"i": counter})
    return int(found.scalar_one())


def put(connection: sa.Connection, counter: int, new: int) -> None:
    statement = sa.text("UPDATE counter SET value = :v WHERE id = :i")
    connection.execute(statement, {"v": new, "i": counter})


def increase(connection: sa.Connection) -> None:
    put(connection, 1, value(connection) + 1)


async def test_no_update_is_lost_between_two_processes(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(opened_database(tmp_path, TABLES, url=url))
            for _ in range(2)
        ]
        await asyncio.gather(*(databases[i % 2].write(increase) for i in range(60)))
        assert await databases[0].read(value) == 60


async def test_two_processes_decide_as_if_one_after_the_other(tmp_path: Path, url: str) -> None:
    """Each reads what the other one writes: with snapshots alone both would leave."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(opened_database(tmp_path, TABLES, url=url))
            for _ in range(2)
        ]
        for duty in (1, 2):
            await one.write(partial(put, counter=duty, new=1))
        both_have_read = threading.Barrier(2)

        def leave_as(own: int) -> Callable[[sa.Connection], bool]:
            def work(connection: sa.Connection) -> bool:
                on_duty = value(connection, 1) + value(connection, 2)
                if not both_have_read.broken:
                    with suppress(threading.BrokenBarrierError):
                        both_have_read.wait(2)
                    both_have_read.abort()
                if on_duty == 2:
                    put(connection, own, 0)
                return on_duty == 2

            return work

        left = await asyncio.gather(one.write(leave_as(1)), two.write(leave_as(2)))
        assert sorted(left) == [False, True]
        assert await one.read(lambda c: value(c, 1) + value(c, 2)) == 1


async def test_a_writer_that_keeps_losing_gets_a_turn_alone(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        slow, quick = [
            await stack.enter_async_context(opened_database(tmp_path, TABLES, url=url))
            for _ in range(2)
        ]
        runs = 0
        done = False
        increased = threading.Event()

        def takes_long(connection: sa.Connection) -> None:
            nonlocal runs
            runs += 1
            seen = value(connection)
            increased.clear()
            if runs <= postgres.ALONE_AFTER:
                increased.wait(5)
            put(connection, 1, seen + 1000)

        async def keep_busy() -> int:
            count = 0
            while not done:
                await quick.write(increase)
                count += 1
                increased.set()
            return count

        busy = asyncio.create_task(keep_busy())
        await slow.write(takes_long)
        done = True
        increases = await busy
        assert await slow.read(value) == 1000 + increases
        assert 2 <= runs <= postgres.ALONE_AFTER + 3


async def test_a_connection_lost_in_the_middle_costs_nothing(database: Database) -> None:
    runs = 0

    def cut_off(connection: sa.Connection) -> int:
        nonlocal runs
        runs += 1
        increase(connection)
        if runs == 1:
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
            connection.execute(sa.text("SELECT pg_terminate_backend(:p)"), {"p": pid})
        return runs

    assert await database.write(cut_off) == 2
    assert await database.read(value) == 1


async def test_works_that_shared_a_lost_transaction_all_come_through(database: Database) -> None:
    held = threading.Event()
    terminated = False

    def cut_off(connection: sa.Connection) -> None:
        nonlocal terminated
        held.wait(10)
        if not terminated:
            terminated = True
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    first = asyncio.create_task(database.write(cut_off))
    rest = [asyncio.create_task(database.write(increase)) for _ in range(10)]
    await asyncio.sleep(0.05)
    held.set()
    await asyncio.gather(first, *rest)
    assert await database.read(value) == 10


async def test_a_work_that_fails_half_way_takes_back_only_itself(database: Database) -> None:
    """In a group without savepoints: the others run again, and are stored once."""

    def half(connection: sa.Connection) -> None:
        add("half")(connection)
        raise ValueError("changed its mind")

    def looks(connection: sa.Connection) -> None:
        names(connection)
        raise LookupError("found nothing")

    held = threading.Event()
    first = asyncio.create_task(database.write(lambda _: held.wait(10)))
    await asyncio.sleep(0.05)
    works: list[Callable[[sa.Connection], Any]] = [increase, looks, add("a"), half, increase]
    rest = [asyncio.create_task(database.write(work)) for work in [*works, add("a"), increase]]
    await asyncio.sleep(0.05)
    held.set()
    await first
    results = await asyncio.gather(*rest, return_exceptions=True)
    kinds = [type(each) if isinstance(each, Exception) else None for each in results]
    assert kinds == [None, LookupError, None, ValueError, None, sa.exc.IntegrityError, None]
    assert await database.read(value) == 3
    assert await database.read(names) == ["a"]


async def test_a_work_that_swallows_a_failure_is_not_stored(database: Database) -> None:
    """The server would undo everything that shares the transaction, and call that a COMMIT."""
    await database.write(add("a"))

    def swallows(connection: sa.Connection) -> None:
        with suppress(sa.exc.IntegrityError):
            add("a")(connection)

    works = [database.write(work) for work in (increase, swallows, increase)]
    results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(each) for each in results] == [type(None), RuntimeError, type(None)]
    assert await database.read(value) == 2


@pytest.fixture
def wire(url: str) -> Iterator[tuple[CommitCutter, str]]:
    with commit_cutter(url) as pair:
        yield pair


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.SILENT])
async def test_an_unanswered_commit_is_stored_once(
    cut: Cut,
    tmp_path: Path,
    wire: tuple[CommitCutter, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cutter, through = wire
    monkeypatch.setattr(postgres, "OUTCOME_PATIENCE_S", 30.0)
    async with opened_database(tmp_path, TABLES, url=through) as database:
        cutter.next = cut
        await database.write(increase)
        assert cutter.cut_count == 1
        assert await database.read(value) == 1
        await database.write(increase)
        assert await database.read(value) == 2


async def test_a_commit_of_unknown_fate_is_said_so(
    tmp_path: Path, wire: tuple[CommitCutter, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cutter, through = wire
    monkeypatch.setattr(postgres, "OUTCOME_PATIENCE_S", 0.3)
    async with opened_database(tmp_path, TABLES, url=through) as database:

        def then_go(connection: sa.Connection) -> None:
            increase(connection)
            cutter.next = Cut.AFTER
            cutter.refuses = True

        with pytest.raises(Unavailable) as caught:
            await database.write(then_go)
        assert caught.value.reason == "COMMIT_UNKNOWN"


async def test_a_restart_of_the_server_is_ridden_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why_unavailable():
        pytest.skip(why_unavailable())
    monkeypatch.setattr(writer, "PATIENCE_S", 40.0)
    monkeypatch.setattr(reader, "PATIENCE_S", 40.0)
    with own_server() as server:
        async with opened_database(tmp_path, TABLES, url=server.tcp_url) as database:
            await database.write(increase)
            for stop in (server.stop, server.kill):
                await asyncio.to_thread(stop)
                calls: list[asyncio.Task[Any]]
                calls = [asyncio.create_task(database.write(increase)) for _ in range(5)]
                calls.append(asyncio.create_task(database.read(value)))
                await asyncio.sleep(0.3)
                assert not any(call.done() for call in calls)
                await asyncio.to_thread(server.start)
                await asyncio.gather(*calls)
            assert await database.read(value) == 11


async def test_a_server_that_stays_away_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why_unavailable():
        pytest.skip(why_unavailable())
    monkeypatch.setattr(writer, "PATIENCE_S", 0.2)
    monkeypatch.setattr(reader, "PATIENCE_S", 0.2)
    with own_server() as server:
        async with opened_database(tmp_path, TABLES, url=server.tcp_url) as database:
            await asyncio.to_thread(server.stop)
            results = await asyncio.gather(
                *(database.write(increase) for _ in range(20)),
                database.read(names),
                return_exceptions=True,
            )
            for each in results:
                assert isinstance(each, Unavailable)
                assert each.reason == "DATABASE_UNAVAILABLE"
                assert server.password not in str(each)
            await asyncio.to_thread(server.start)
            await database.write(increase)
            assert await database.read(value) == 1


async def test_a_server_without_a_free_connection_is_said_so(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_S", 0.2)
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute("CREATE ROLE few LOGIN PASSWORD 'x'")
        administrator.execute(f'ALTER DATABASE "{name}" OWNER TO few')
        few = url.replace(url[: url.index("@")], "postgresql://few:x")
        async with opened_database(tmp_path, TABLES, url=few) as database:
            administrator.execute("ALTER ROLE few CONNECTION LIMIT 0")
            database._engines[0].dispose()
            with pytest.raises(ResourceExhausted) as caught:
                await database.write(increase)
            assert caught.value.reason == "DATABASE_CONNECTIONS"
            administrator.execute("ALTER ROLE few CONNECTION LIMIT -1")
            await database.write(increase)
        administrator.execute(f'ALTER DATABASE "{name}" OWNER TO postgres')
        administrator.execute("DROP OWNED BY few")
        administrator.execute("DROP ROLE few")


async def open_at(url: str, folder: Path) -> Database:
    return await Database.open(url, migrations=folder / "migrations", clock=SystemClock())


async def test_many_processes_may_open_it_at_once(tmp_path: Path, url: str) -> None:
    write_migration(tmp_path / "migrations", 1, TABLES)
    opened = await asyncio.gather(*(open_at(url, tmp_path) for _ in range(6)))
    assert await opened[5].read(lambda c: value(c, 2)) == 0
    for each in opened:
        await each.close()


async def test_services_share_a_database_by_schemas(tmp_path: Path, url: str) -> None:
    async with (
        opened_database(tmp_path, TABLES, url=url + "?schema=one") as one,
        opened_database(tmp_path, TABLES, url=url + "?schema=two") as two,
    ):
        await one.write(add("a"))
        assert await two.read(names) == []
    async with opened_database(tmp_path, TABLES, url=url + "?schema=one") as one:
        assert await one.read(names) == ["a"]


async def test_a_newer_schema_is_refused(tmp_path: Path, url: str) -> None:
    async with opened_database(tmp_path, TABLES, url=url) as database:
        for column in ("alembic_version SET version_num", "schema_support SET oldest_code"):
            later = sa.text(f"UPDATE {column} = '0009'")
            await database.write(partial(sa.Connection.execute, statement=later))
    with pytest.raises(FailedPrecondition, match=r"schema allotment.*0009.*0001") as caught:
        await open_at(url, tmp_path)
    assert caught.value.reason == "SCHEMA_TOO_NEW"


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, url: str) -> None:
    async with opened_database(tmp_path, TABLES, url=url) as database:
        await database.write(add("a"))
    write_migration(tmp_path / "migrations", 2, ["DELETE FROM item", "UPDATE nothing SET size = 7"])
    with pytest.raises(sa.exc.ProgrammingError):
        await open_at(url, tmp_path)
    (tmp_path / "migrations" / "versions" / "0002_step.py").unlink()
    opened = await open_at(url, tmp_path)
    assert await opened.read(names) == ["a"]
    await opened.close()


async def test_text_is_ordered_by_bytes_whatever_the_language(database: Database) -> None:
    for name in ("b", "B", "ä", "a", "_", "a/b", "a0"):
        await database.write(add(name))
    assert await database.read(names) == sorted(["b", "B", "ä", "a", "_", "a/b", "a0"])

    def collations(connection: sa.Connection) -> set[str]:
        query = (
            "SELECT DISTINCT collation_name FROM information_schema.columns WHERE "
            "table_schema = current_schema AND data_type IN ('text', 'character varying')"
        )
        return set(connection.execute(sa.text(query)).scalars())

    assert await database.read(collations) == {"C"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda u: u.replace("postgres:", "postgres:wrong-s3cret", 1), "DATABASE_UNAVAILABLE"),
        (lambda u: with_database(u, "nowhere"), "DATABASE_UNAVAILABLE"),
        (lambda u: u + "?nonsense=s3cret", "INVALID_DATABASE_URL"),
        (lambda u: u + "?schema=a%22b", "INVALID_DATABASE_URL"),
        (lambda u: u.replace("postgresql://", "mysql://"), "UNSUPPORTED_DATABASE"),
    ],
)
async def test_a_wrong_url_is_refused_at_once_and_without_its_password(
    change: Callable[[str], str],
    reason: str,
    tmp_path: Path,
    url: str,
    server: PostgresServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_migration(tmp_path / "migrations", 1, TABLES)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AllotmentError) as caught:
        await asyncio.wait_for(open_at(change(url), tmp_path), 20)
    assert caught.value.reason == reason
    shown = str(caught.value) + repr(caught.value.__cause__) + caplog.text
    assert server.password not in shown
    assert "s3cret" not in shown


async def test_a_server_that_is_not_there_is_waited_for_and_then_named(
    tmp_path: Path, url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "OPEN_PATIENCE_S", 0.2)
    write_migration(tmp_path / "migrations", 1, TABLES)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1.*refused") as caught:
        await open_at(url.replace(f":{server.port}/", ":1/"), tmp_path)
    assert server.password not in str(caught.value)


async def test_a_text_that_can_not_be_stored_is_refused(database: Database) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await database.write(add("a\0b"))
    assert caught.value.reason == "NUL_CHARACTER"


async def test_readers_can_not_write(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PATIENCE_S", 0.1)
    with pytest.raises(Unavailable):
        await database.read(add("a"))
    assert await database.read(names) == []
