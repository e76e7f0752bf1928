"""The contract of a blob store, as tests that every adapter passes."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from allotment_core.blobs import CHUNK_BYTES, BlobStore
from allotment_core.errors import InvalidArgument, NotFound, OutOfRange

MISSING = "0" * 64


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """The parts, as a stream."""
    for part in parts:
        yield part


async def all_of(stream: AsyncIterator[bytes]) -> bytes:
    """A stream's bytes in one piece."""
    return b"".join([chunk async for chunk in stream])


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class BlobStoreConformance:
    """Subclasses give a fixture `store`."""

    async def test_what_was_put_is_read(self, store: BlobStore) -> None:
        blob = await store.put(chunks(b"ab", b"", b"c"))
        assert (blob.sha256, blob.size_bytes) == (sha256_of(b"abc"), 3)
        assert await all_of(store.read(blob.sha256)) == b"abc"
        assert await store.stat(blob.sha256) == blob

    async def test_all_are_listed_by_sha256(self, store: BlobStore) -> None:
        put = [await store.put(chunks(b"%d" % number)) for number in range(5)]
        assert [blob async for blob in store.list()] == sorted(put, key=lambda blob: blob.sha256)

    async def test_an_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        blob = await store.put(chunks())
        assert blob.size_bytes == 0
        assert await all_of(store.read(blob.sha256)) == b""

    async def test_chunks_are_bounded_and_offsets_honoured(self, store: BlobStore) -> None:
        content = bytes(range(256)) * (10 * 1024) + b"tail"
        blob = await store.put(chunks(content))
        for offset in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, len(content) - 1, len(content)):
            parts = [part async for part in store.read(blob.sha256, offset)]
            assert b"".join(parts) == content[offset:]
            assert all(0 < len(part) <= CHUNK_BYTES for part in parts)

    @pytest.mark.parametrize("offset", [-1, 4])
    async def test_an_offset_outside_is_out_of_range(self, store: BlobStore, offset: int) -> None:
        blob = await store.put(chunks(b"abc"))
        with pytest.raises(OutOfRange, match="3 bytes"):
            await all_of(store.read(blob.sha256, offset))

    async def test_putting_twice_is_putting_once(self, store: BlobStore) -> None:
        first = await store.put(chunks(b"same"))
        assert await store.put(chunks(b"sa", b"me"), first.sha256) == first
        assert [blob async for blob in store.list()] == [first]

    async def test_other_bytes_than_announced_are_refused(self, store: BlobStore) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await store.put(chunks(b"abc"), sha256_of(b"abd"))
        assert caught.value.reason == "SHA256_MISMATCH"
        assert await store.stat(sha256_of(b"abc")) is None
        assert [blob async for blob in store.list()] == []

    async def test_a_put_whose_source_fails_leaves_nothing(self, store: BlobStore) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"abc"
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError):
            await store.put(broken())
        assert [blob async for blob in store.list()] == []

    async def test_a_file_is_taken_in(self, store: BlobStore, tmp_path: Path) -> None:
        path = tmp_path / "finished"
        path.write_bytes(b"content")
        blob = await store.put_file(path, sha256_of(b"content"))
        assert await all_of(store.read(blob.sha256)) == b"content"

    async def test_a_file_with_other_bytes_is_refused(
        self, store: BlobStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "finished"
        path.write_bytes(b"content")
        with pytest.raises(InvalidArgument):
            await store.put_file(path, MISSING)
        assert path.read_bytes() == b"content"
        assert await store.stat(MISSING) is None

    async def test_what_is_not_there_is_not_found(self, store: BlobStore) -> None:
        assert await store.stat(MISSING) is None
        with pytest.raises(NotFound):
            await all_of(store.read(MISSING))

    async def test_deleting_twice_is_deleting_once(self, store: BlobStore) -> None:
        blob = await store.put(chunks(b"abc"))
        await store.delete(blob.sha256)
        await store.delete(blob.sha256)
        assert await store.stat(blob.sha256) is None

    @pytest.mark.parametrize("sha256", ["", "..", "../" * 21 + "x", "A" * 64])
    async def test_only_digests_name_blobs(self, store: BlobStore, sha256: str) -> None:
        with pytest.raises(InvalidArgument):
            await store.stat(sha256)
        with pytest.raises(InvalidArgument):
            await store.delete(sha256)
        with pytest.raises(InvalidArgument):
            await all_of(store.read(sha256))
