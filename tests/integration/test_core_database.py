"""The database: durable groups, snapshots, migrations, a failing disk."""

import asyncio
import importlib.util
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_core.auth.principal import Principal, Role
from allotment_core.calls import Call, current_call
from allotment_core.clock import SystemClock
from allotment_core.db import Database, request_log, writer
from allotment_core.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from allotment_core.names import TenantName
from allotment_testkit.clock import ManualClock
from allotment_testkit.db import opened_database, write_migration

TABLE = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"
ADD = sa.text("INSERT INTO item (id, name) SELECT coalesce(max(id), 0) + 1, :n FROM item")


@pytest.fixture
async def database(tmp_path: Path, database_url: str) -> AsyncIterator[Database]:
    """One of each kind."""
    async with opened_database(tmp_path, [TABLE], url=database_url) as opened:
        yield opened


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened_database(tmp_path, [TABLE]) as opened:
        yield opened


def add(name: str) -> Callable[[sa.Connection], int]:
    return lambda c: c.execute(ADD, {"n": name}).rowcount


def names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text("SELECT name FROM item ORDER BY name")).scalars())


def on_disk(database: Database) -> list[str]:
    """What another process sees."""
    engine = sa.create_engine(database._engines[1].url)
    schema = "" if engine.dialect.name == "sqlite" else "allotment."
    with engine.connect() as connection:
        query = sa.text(f"SELECT name FROM {schema}item ORDER BY name")
        found = list(connection.execute(query).scalars())
    engine.dispose()
    return found


async def test_a_write_is_on_disk_when_it_is_answered(database: Database) -> None:
    assert await database.write(add("a")) == 1
    assert on_disk(database) == ["a"]
    assert await database.read(names) == ["a"]


async def test_a_failing_work_takes_back_only_itself(database: Database) -> None:
    def half(connection: sa.Connection) -> None:
        add("half")(connection)
        raise ValueError("changed its mind")

    release = threading.Event()
    held = asyncio.create_task(database.write(lambda _: release.wait(10)))
    rest = [
        asyncio.create_task(work)
        for work in (
            database.write(add("a")),
            database.write(half),
            database.write(add("a")),
            database.write(add("b")),
        )
    ]
    await asyncio.sleep(0.05)
    release.set()
    await held
    results = await asyncio.gather(*rest, return_exceptions=True)
    assert results[0] == results[3] == 1
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], sa.exc.IntegrityError)
    assert on_disk(database) == ["a", "b"]


async def test_waiting_writes_share_a_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_S", 10.0)
    commits = 0

    def count(_connection: sa.Connection) -> None:
        nonlocal commits
        commits += 1

    sa.event.listen(database._engines[0], "commit", count)
    release = threading.Event()
    held = asyncio.create_task(database.write(lambda _: release.wait(10)))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(database.write(add(str(i)))) for i in range(200)]
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.gather(held, *rest)
    assert commits <= 2
    assert len(on_disk(database)) == 200


async def test_nobody_is_answered_when_the_commit_fails(sqlite_database: Database) -> None:
    def fail(_connection: sa.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    sa.event.listen(sqlite_database._engines[0], "commit", fail)
    results = await asyncio.gather(
        sqlite_database.write(add("a")), sqlite_database.write(add("b")), return_exceptions=True
    )
    assert [type(each) for each in results] == [Unavailable, Unavailable]
    sa.event.remove(sqlite_database._engines[0], "commit", fail)
    assert on_disk(sqlite_database) == []
    await sqlite_database.write(add("c"))
    assert on_disk(sqlite_database) == ["c"]


async def test_a_full_disk_is_said_so_and_loses_nothing(sqlite_database: Database) -> None:
    await sqlite_database.write(add("kept"))

    def limit(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await sqlite_database.write(limit)
    results = await asyncio.gather(
        *(sqlite_database.write(add(str(i) + "x" * 10_000)) for i in range(5)),
        return_exceptions=True,
    )
    for each in results:
        assert isinstance(each, ResourceExhausted)
        assert each.reason == "DISK_FULL"
    await sqlite_database.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 100000"))
    await sqlite_database.write(add("after"))
    assert on_disk(sqlite_database) == ["after", "kept"]


async def test_readers_can_not_write(sqlite_database: Database) -> None:
    with pytest.raises(Unavailable):
        await sqlite_database.read(add("a"))
    assert on_disk(sqlite_database) == []


async def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    await database.write(add("a"))
    release = threading.Event()

    def slow(connection: sa.Connection) -> None:
        add("b")(connection)
        release.wait(10)

    held = asyncio.create_task(database.write(slow))
    await asyncio.sleep(0.05)
    assert await database.read(names) == ["a"]
    release.set()
    await held
    assert await database.read(names) == ["a", "b"]


async def test_a_caller_that_left_does_not_harm_the_others(database: Database) -> None:
    release = threading.Event()
    held = asyncio.create_task(database.write(lambda _: release.wait(10)))
    await asyncio.sleep(0.05)
    leaver = asyncio.create_task(database.write(add("left")))
    stayer = asyncio.create_task(database.write(add("stayed")))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(held, stayer)
    assert "stayed" in on_disk(database)


async def test_a_closed_database_takes_no_writes(tmp_path: Path) -> None:
    async with opened_database(tmp_path, [TABLE]) as database:
        pass
    with pytest.raises(Unavailable):
        await database.write(add("a"))


def call_of(tenant: str = "local", request_id: str = "r1", body: bytes = b"1") -> Call:
    principal = Principal(
        subject="s",
        tenant=TenantName(tenant),
        role=Role.EDITOR,
        expires_at=SystemClock().now(),
    )
    return Call(
        rpc="/x.Y/Z",
        call_id="c",
        principal=principal,
        request_id=request_id,
        body_hash=body,
        response_class=pb.GetTenantResponse,
    )


async def respond(database: Database, name: str, call: Call) -> str:
    async def run() -> str:
        current_call.set(call)
        response = await database.respond(
            add(name), lambda _: pb.GetTenantResponse(tenant=pb.Tenant(name=name))
        )
        return response.tenant.name

    return await asyncio.create_task(run())


async def test_a_repeated_call_gets_the_first_answer(database: Database) -> None:
    assert await respond(database, "a", call_of()) == "a"
    assert await respond(database, "b", call_of()) == "a"
    assert await respond(database, "c", call_of(tenant="other")) == "c"
    assert await respond(database, "d", call_of(request_id="r2")) == "d"
    assert on_disk(database) == ["a", "c", "d"]


async def test_calls_that_race_change_once(database: Database) -> None:
    answers = await asyncio.gather(*(respond(database, str(i), call_of()) for i in range(20)))
    assert len(set(answers)) == 1
    assert on_disk(database) == [answers[0]]


async def test_calls_that_race_between_processes_change_once(
    tmp_path: Path, database_url: str
) -> None:
    """Each process knows the answer of the other one, however their changes collide."""
    async with (
        opened_database(tmp_path, [TABLE], url=database_url) as one,
        opened_database(tmp_path, [TABLE], url=database_url) as two,
    ):
        for turn in range(5):
            call = partial(call_of, request_id=f"r{turn}")
            answers = await asyncio.gather(
                *(respond((one, two)[i % 2], f"same{turn}", call()) for i in range(4))
            )
            assert set(answers) == {f"same{turn}"}
        assert len(await one.read(names)) == 5


async def test_another_body_under_the_same_id_is_refused(database: Database) -> None:
    await respond(database, "a", call_of())
    with pytest.raises(InvalidArgument) as caught:
        await respond(database, "b", call_of(body=b"2"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert on_disk(database) == ["a"]


async def test_a_call_that_failed_may_be_tried_again(database: Database) -> None:
    await database.write(add("a"))
    with pytest.raises(sa.exc.IntegrityError):
        await respond(database, "a", call_of())
    assert await respond(database, "b", call_of()) == "b"


async def test_one_call_responds_once(database: Database) -> None:
    call = call_of()
    await respond(database, "a", call)
    with pytest.raises(RuntimeError, match="twice"):
        await respond(database, "b", call)


async def test_answers_are_kept_for_a_day_and_then_forgotten(
    tmp_path: Path, database_url: str
) -> None:
    clock = ManualClock()
    async with opened_database(tmp_path, [TABLE], clock=clock, url=database_url) as database:
        await respond(database, "a", call_of())
        clock.advance(24 * 3600 + 60)
        assert await respond(database, "b", call_of()) == "a"
        clock.advance(2 * 3600)
        await respond(database, "c", call_of(request_id="r2"))
        kept = sa.select(request_log.table.c.request_id)
        assert list(await database.read(lambda c: c.execute(kept).scalars().all())) == ["r2"]


async def test_old_answers_are_forgotten_a_few_at_a_time(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "PRUNED_AT_ONCE", 2)
    clock = ManualClock()
    kept = sa.select(sa.func.count()).select_from(request_log.table)
    async with opened_database(tmp_path, [TABLE], clock=clock, url=database_url) as database:
        for number in range(5):
            await respond(database, f"old{number}", call_of(request_id=f"old{number}"))
            clock.advance(1)
        clock.advance(26 * 3600)
        left = []
        for number in range(4):
            await respond(database, f"new{number}", call_of(request_id=f"new{number}"))
            left.append(await database.read(lambda c: c.execute(kept).scalar()))
        assert left == [3 + 1, 1 + 2, 0 + 3, 0 + 4]


async def reopen(folder: Path) -> None:
    opened = await Database.open(
        f"sqlite:///{folder}/test.db", migrations=folder / "migrations", clock=SystemClock()
    )
    await opened.close()


async def test_an_older_database_is_migrated_with_its_rows(tmp_path: Path) -> None:
    async with opened_database(tmp_path, [TABLE]) as database:
        await database.write(add("a"))
    write_migration(tmp_path / "migrations", 2, ["ALTER TABLE item ADD COLUMN size INTEGER"])
    write_migration(tmp_path / "migrations", 3, ["UPDATE item SET size = 7"])
    await reopen(tmp_path)
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        assert connection.execute("SELECT name, size FROM item").fetchall() == [("a", 7)]


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with opened_database(tmp_path, [TABLE]) as database:
        await database.write(add("a"))
    write_migration(tmp_path / "migrations", 2, ["DELETE FROM item"])
    write_migration(tmp_path / "migrations", 3, ["UPDATE nothing SET size = 7"])
    with pytest.raises(sa.exc.OperationalError):
        await reopen(tmp_path)
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        assert connection.execute("SELECT name FROM item").fetchall() == [("a",)]
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("0001",)]


async def test_a_rebuilt_table_keeps_the_rows_that_refer_to_it(tmp_path: Path) -> None:
    child = "CREATE TABLE part (item_id INTEGER REFERENCES item (id) ON DELETE CASCADE)"
    async with opened_database(tmp_path, [TABLE, child]) as database:
        await database.write(add("a"))
        await database.write(lambda c: c.exec_driver_sql("INSERT INTO part VALUES (1)").rowcount)
    copy = "CREATE TABLE item2 (id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER)"
    rebuild = [
        copy,
        "INSERT INTO item2 SELECT id, name, 1 FROM item",
        "DROP TABLE item",
        "ALTER TABLE item2 RENAME TO item",
    ]
    write_migration(tmp_path / "migrations", 2, rebuild)
    await reopen(tmp_path)
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        assert connection.execute("SELECT item_id FROM part").fetchall() == [(1,)]


async def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    async with opened_database(tmp_path, [TABLE]):
        pass
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0009'")
        connection.execute("UPDATE schema_support SET oldest_code = '0009'")
        connection.commit()
    with pytest.raises(FailedPrecondition, match=r"0009.*0001") as caught:
        await reopen(tmp_path)
    assert caught.value.reason == "SCHEMA_TOO_NEW"


async def test_code_of_before_works_with_a_schema_to_which_things_were_only_added(
    tmp_path: Path, database_url: str
) -> None:
    url = database_url or f"sqlite:///{tmp_path}/test.db"
    newer = tmp_path / "newer"
    write_migration(newer, 1, [TABLE])
    write_migration(newer, 2, ["ALTER TABLE item ADD COLUMN note TEXT"], additive=True)
    write_migration(newer, 3, ["CREATE TABLE more (id INTEGER)"], additive=True)
    await (await Database.open(url, migrations=newer, clock=SystemClock())).close()
    for known in (1, 2):
        older = tmp_path / f"older{known}"
        for number in range(1, known + 1):
            write_migration(older, number, [TABLE])
        database = await Database.open(url, migrations=older, clock=SystemClock())
        await database.write(add(f"by {known}"))
        await database.close()
    database = await Database.open(url, migrations=newer, clock=SystemClock())
    assert await database.read(names) == ["by 1", "by 2"]
    await database.close()


async def test_code_from_before_a_change_of_what_is_there_is_refused(
    tmp_path: Path, database_url: str
) -> None:
    url = database_url or f"sqlite:///{tmp_path}/test.db"
    newer, older = tmp_path / "newer", tmp_path / "older"
    write_migration(newer, 1, [TABLE])
    write_migration(newer, 2, ["CREATE TABLE other (id INTEGER)"])
    write_migration(newer, 3, ["CREATE TABLE more (id INTEGER)"], additive=True)
    await (await Database.open(url, migrations=newer, clock=SystemClock())).close()
    write_migration(older, 1, [TABLE])
    with pytest.raises(FailedPrecondition, match=r"0003.*0001") as caught:
        await Database.open(url, migrations=older, clock=SystemClock())
    assert caught.value.reason == "SCHEMA_TOO_NEW"
    write_migration(older, 2, ["CREATE TABLE other (id INTEGER)"])
    await (await Database.open(url, migrations=older, clock=SystemClock())).close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    write_migration(tmp_path / "migrations", 1, [TABLE])
    (tmp_path / "test.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(DataLoss, match=r"test\.db"):
        await reopen(tmp_path)


async def test_only_its_owner_reads_a_database(sqlite_database: Database) -> None:
    for suffix in ("", "-wal", "-shm"):
        path = sqlite_database.name + suffix
        assert os.stat(path).st_mode & 0o077 == 0, path


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///:memory:", "mysql://h/d", "nonsense"])
async def test_other_databases_are_refused(url: str, tmp_path: Path) -> None:
    write_migration(tmp_path / "migrations", 1, [TABLE])
    with pytest.raises(InvalidArgument) as caught:
        await Database.open(url, migrations=tmp_path / "migrations", clock=SystemClock())
    assert caught.value.reason == "UNSUPPORTED_DATABASE"


async def test_postgresql_without_its_driver_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_migration(tmp_path / "migrations", 1, [TABLE])
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, p=None: None if n == "psycopg" else find_spec(n, p)
    )
    with pytest.raises(InvalidArgument, match=r"pip install 'allotment\[postgres\]'"):
        await Database.open(
            "postgresql://h/d", migrations=tmp_path / "migrations", clock=SystemClock()
        )


def test_sqlite_needs_no_driver_of_postgresql() -> None:
    program = "import sys, allotment_core.db as d; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_every_commit_is_synced(sqlite_database: Database) -> None:
    def pragmas(connection: sa.Connection) -> list[object]:
        wanted = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in wanted]

    assert await sqlite_database.write(pragmas) == ["wal", 2, 1]
