"""The cache of tables: verified, bounded, never pulled away from under a trial."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from allotment_core.errors import DataLoss, NotFound, Unavailable
from allotment_trainer.adapters.data_cache import FolderCache


class Blobs:
    """Bytes by digest, sent in pieces of 4; the connection breaks after `breaks_after` pieces."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {_sha(c): c for c in contents}
        self.asked: list[tuple[str, int]] = []
        self.breaks_after: int | None = None

    async def put(self, path: Path, owner: str) -> str:
        raise NotImplementedError

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        self.asked.append((sha256, offset))
        if sha256 not in self.contents:
            raise NotFound("gone")
        content = self.contents[sha256][offset:]
        for number, begin in enumerate(range(0, len(content), 4)):
            if self.breaks_after is not None and number == self.breaks_after:
                self.breaks_after = None
                raise Unavailable("lost")
            yield content[begin : begin + 4]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    return FolderCache(tmp_path, limit_bytes=100)


async def test_a_part_is_fetched_once(cache: FolderCache) -> None:
    blobs = Blobs(b"some rows")
    for _ in range(2):
        async with cache.hold([_sha(b"some rows")], blobs) as (paths, table):
            assert paths[0].read_bytes() == b"some rows"
            assert table.is_dir()
    assert len(blobs.asked) == 1


async def test_a_broken_download_goes_on_where_it_was(cache: FolderCache) -> None:
    blobs = Blobs(b"some more rows")
    blobs.breaks_after = 2
    async with cache.hold([_sha(b"some more rows")], blobs) as (paths, _):
        assert paths[0].read_bytes() == b"some more rows"
    assert [offset for _, offset in blobs.asked] == [0, 8]


async def test_damaged_bytes_never_get_a_name(cache: FolderCache, tmp_path: Path) -> None:
    blobs = Blobs()
    blobs.contents[_sha(b"right")] = b"wrong"
    with pytest.raises(DataLoss):
        async with cache.hold([_sha(b"right")], blobs):
            pass
    assert list((tmp_path / "blobs").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_part_that_is_gone_is_not_found(cache: FolderCache) -> None:
    with pytest.raises(NotFound):
        async with cache.hold([_sha(b"x")], Blobs()):
            pass


async def test_what_was_used_longest_ago_goes_first(cache: FolderCache, tmp_path: Path) -> None:
    contents = [bytes([n]) * 60 for n in range(3)]
    for age, content in enumerate(contents):
        async with cache.hold([_sha(content)], Blobs(content)) as (paths, _):
            os.utime(paths[0], (age, age))
    left = {p.name for p in (tmp_path / "blobs").iterdir()}
    assert left == {_sha(contents[2])}


async def test_what_a_trial_holds_stays(tmp_path: Path) -> None:
    ours, theirs = (FolderCache(tmp_path, limit_bytes=10) for _ in range(2))
    content = b"x" * 60
    async with ours.hold([_sha(content)], Blobs(content)) as (paths, table):
        (table / "n-column.npy").write_bytes(b"y" * 60)
        theirs.evict()
        assert paths[0].exists()
        assert (table / "n-column.npy").exists()
    assert list((tmp_path / "blobs").iterdir()) == []
    assert list((tmp_path / "tables").iterdir()) == []
    assert list((tmp_path / "pins").iterdir()) == []


def test_what_a_dead_trainer_was_downloading_is_removed(tmp_path: Path) -> None:
    FolderCache(tmp_path, limit_bytes=10)
    (tmp_path / "tmp" / "999999999-0").write_bytes(b"x")
    (tmp_path / "tmp" / f"{os.getpid()}-0").write_bytes(b"x")
    FolderCache(tmp_path, limit_bytes=10)
    assert [p.name for p in (tmp_path / "tmp").iterdir()] == [f"{os.getpid()}-0"]
