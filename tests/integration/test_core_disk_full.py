"""A disk that is really full: what was answered stays, the rest is refused, room brings it back."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from allotment_core.blobs import FolderBlobStore
from allotment_core.errors import ResourceExhausted
from allotment_testkit.blobs import all_of, chunks
from allotment_testkit.db import opened_database

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root"),
]
MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text("SELECT name FROM item ORDER BY id")).scalars())


async def test_a_database_on_a_full_disk_loses_nothing(small_disk: Path) -> None:
    table = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)"
    async with opened_database(small_disk, [table]) as database:

        async def add(name: str) -> None:
            statement = sa.text("INSERT INTO item (name) VALUES (:n)")
            await database.write(lambda c: c.execute(statement, {"n": name}).rowcount)

        acknowledged: list[str] = []

        async def fill() -> None:
            for i in range(10_000):
                await add(f"{i}" + "x" * 2000)
                acknowledged.append(f"{i}" + "x" * 2000)

        with pytest.raises(ResourceExhausted) as caught:
            await fill()
        assert caught.value.reason == "DISK_FULL"
        assert await database.read(names) == acknowledged
        grow = ["mount", "-o", "remount,size=8m", str(small_disk)]
        await asyncio.to_thread(subprocess.run, grow, check=True)
        await add("after")
        assert await database.read(names) == [*acknowledged, "after"]


async def test_a_blob_store_on_a_full_disk_leaves_nothing_behind(small_disk: Path) -> None:
    store = FolderBlobStore(small_disk)
    kept = await store.put(chunks(b"k" * MIB))
    for _ in range(3):
        with pytest.raises(ResourceExhausted) as caught:
            await store.put(chunks(b"a" * MIB, b"b" * MIB))
        assert caught.value.reason == "DISK_FULL"
    assert [blob async for blob in store.list()] == [kept]
    assert await all_of(store.read(kept.sha256)) == b"k" * MIB
    await store.put(chunks(b"little"))
