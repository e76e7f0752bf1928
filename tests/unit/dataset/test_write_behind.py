"""Bytes that are written while the next ones arrive: what a disk refuses is told in time."""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from allotment_core.errors import ResourceExhausted
from allotment_dataset.adapters import write_behind
from allotment_dataset.adapters.write_behind import WriteBehind

CHUNK_BYTES = 1000


def content_of(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind, "_WINDOW_BYTES", 4 * CHUNK_BYTES)
    monkeypatch.setattr(write_behind, "_SYNC_BYTES", 6 * CHUNK_BYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
async def file(path: Path) -> AsyncIterator[WriteBehind]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    opened = WriteBehind(descriptor, 0, "the bytes")
    yield opened
    await opened.close()
    os.close(descriptor)


async def test_all_is_there_after_a_sync(file: WriteBehind, path: Path) -> None:
    content = os.urandom(40 * CHUNK_BYTES)
    for at in range(0, len(content), CHUNK_BYTES):
        await file.append(content[at : at + CHUNK_BYTES])
    assert file.size_bytes == len(content)
    await file.sync()
    assert content_of(path) == content
    assert await file.sha256() == hashlib.sha256(content).hexdigest()


async def test_what_was_there_before_is_hashed_too(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"before")
    opened = WriteBehind(descriptor, 6, "the bytes")
    await opened.append(b" and after")
    assert await opened.sha256() == hashlib.sha256(b"before and after").hexdigest()
    await opened.close()
    os.close(descriptor)


async def test_a_full_disk_is_told_once_and_room_brings_it_back(
    file: WriteBehind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_write = os.pwrite

    def full(descriptor: int, data: bytes, place: int) -> int:
        if place >= 3:
            raise OSError(errno.ENOSPC, "no space")
        return really_write(descriptor, data[: 3 - place], place)

    await file.append(b"ab")
    await file.flush()
    monkeypatch.setattr(os, "pwrite", full)
    await file.append(b"cde")
    with pytest.raises(ResourceExhausted) as caught:
        await file.flush()
    assert caught.value.reason == "DISK_FULL"
    assert (file.size_bytes, content_of(path)) == (2, b"ab")
    monkeypatch.undo()
    await file.append(b"cde")
    await file.sync()
    assert content_of(path) == b"abcde"
    assert await file.sha256() == hashlib.sha256(b"abcde").hexdigest()


async def test_a_writer_that_waits_for_room_is_told(
    file: WriteBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: bytes, _place: int) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)

    async def fill() -> None:
        for _ in range(100):
            await file.append(bytes(CHUNK_BYTES))

    with pytest.raises(ResourceExhausted):
        await fill()
    assert file.size_bytes == 0


async def test_bytes_that_a_sync_lost_are_not_there(
    file: WriteBehind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await file.append(b"durable")
    await file.sync()

    def lose(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    await file.append(b" lost")
    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(ResourceExhausted):
        await file.sync()
    assert (file.size_bytes, content_of(path)) == (7, b"durable")
    monkeypatch.undo()
    await file.append(b" again")
    await file.sync()
    assert await file.sha256() == hashlib.sha256(b"durable again").hexdigest()


async def test_what_comes_while_lost_bytes_are_cut_off_goes_with_them(
    file: WriteBehind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await file.append(b"durable")
    await file.sync()
    cutting, go_on = threading.Event(), threading.Event()
    really_cut = os.ftruncate

    def cut(descriptor: int, size_bytes: int) -> None:
        cutting.set()
        assert go_on.wait(30)
        really_cut(descriptor, size_bytes)

    def lose(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(write_behind, "_WINDOW_BYTES", 1 << 30)
    monkeypatch.setattr(os, "ftruncate", cut)
    monkeypatch.setattr(os, "fsync", lose)
    while not cutting.is_set():
        await file.append(bytes(CHUNK_BYTES))
        await asyncio.sleep(0)
    await file.append(b"late")
    go_on.set()

    async def fill() -> None:
        while True:
            await file.append(bytes(CHUNK_BYTES))
            await asyncio.sleep(0.001)

    with pytest.raises(ResourceExhausted):
        await fill()
    assert (file.size_bytes, content_of(path)) == (7, b"durable")
