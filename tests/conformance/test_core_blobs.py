"""Every blob store keeps the contract; the folder store survives its disk."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from allotment_core.blobs import CHUNK_BYTES, BlobStore, FolderBlobStore
from allotment_core.blobs.s3 import S3BlobStore
from allotment_core.errors import DataLoss, ResourceExhausted
from allotment_testkit.blobs import BlobStoreConformance, all_of, chunks
from allotment_testkit.s3 import S3Server


class TestFolderBlobStore(BlobStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return FolderBlobStore(tmp_path / "blobs")


class TestS3BlobStore(BlobStoreConformance):
    @pytest.fixture
    async def store(
        self, s3_server: S3Server, s3_bucket: str, tmp_path: Path
    ) -> AsyncIterator[BlobStore]:
        store = S3BlobStore(s3_server.config(s3_bucket, prefix="some/folder"), tmp_path / "aside")
        await store.open()
        yield store
        await store.close()


def file_of(folder: Path, sha256: str) -> Path:
    return folder / "sha256" / sha256[:2] / sha256


@pytest.fixture
def store(tmp_path: Path) -> FolderBlobStore:
    return FolderBlobStore(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
@pytest.mark.parametrize("offset", [0, CHUNK_BYTES + 5])
async def test_damage_is_never_read_as_the_blob(
    store: FolderBlobStore, tmp_path: Path, damage: str, offset: int
) -> None:
    blob = await store.put(chunks(b"x" * CHUNK_BYTES, b"y" * CHUNK_BYTES))
    path = file_of(tmp_path, blob.sha256)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[3] ^= 1
    path.write_bytes({"cut": content[:-1], "grow": content + b"z"}.get(damage, content))
    received: list[bytes] = []

    async def read() -> None:
        async for chunk in store.read(blob.sha256, offset):
            received.append(chunk)

    with pytest.raises(DataLoss) as caught:
        await read()
    assert caught.value.reason == "BLOB_DAMAGED"
    # A reader that counts bytes never gets as many as the damaged file has.
    assert sum(map(len, received)) < len(path.read_bytes()) - offset


async def test_storing_it_again_heals_a_damaged_blob(
    store: FolderBlobStore, tmp_path: Path
) -> None:
    blob = await store.put(chunks(b"content"))
    file_of(tmp_path, blob.sha256).write_bytes(b"damaged")
    await store.put(chunks(b"content"))
    assert await all_of(store.read(blob.sha256)) == b"content"


async def test_what_a_killed_server_was_writing_is_cleared(tmp_path: Path) -> None:
    FolderBlobStore(tmp_path)
    (tmp_path / "incoming" / "left").write_bytes(b"half")
    store = FolderBlobStore(tmp_path)
    assert list((tmp_path / "incoming").iterdir()) == []
    assert [blob async for blob in store.list()] == []


async def test_bytes_and_names_are_synced_before_a_put_is_answered(
    store: FolderBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really_sync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    blob = await store.put(chunks(b"content"))
    assert synced[0].startswith(str(tmp_path / "incoming"))
    assert synced[1:] == [str(tmp_path / "sha256"), str(tmp_path / "sha256" / blob.sha256[:2])]


async def test_a_file_on_another_file_system_is_copied(
    store: FolderBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_from: object, _to: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "finished"
    path.write_bytes(b"content")
    sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    await store.put_file(path, sha256)
    assert await all_of(store.read(sha256)) == b"content"
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_said_so_and_leaves_nothing(
    store: FolderBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = Path.open

    def full(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if "x" in mode:
            path.write_bytes(b"")
            return really_open(Path("/dev/full"), "wb")
        return really_open(path, mode)

    monkeypatch.setattr(Path, "open", full)

    async def many() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * CHUNK_BYTES

    for source in (many(), chunks(b"little")):
        with pytest.raises(ResourceExhausted) as caught:
            await store.put(source)
        assert caught.value.reason == "DISK_FULL"
        assert list((tmp_path / "incoming").iterdir()) == []
        assert [blob async for blob in store.list()] == []
