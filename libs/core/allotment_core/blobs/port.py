"""What a blob store is, and the errors that every one tells alike."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from allotment_core.errors import DataLoss, InvalidArgument, NotFound, OutOfRange, clip

CHUNK_BYTES = 1024 * 1024
"""The most that one chunk, in and out, has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """What is known of a blob without reading it."""

    sha256: str
    size_bytes: int


class BlobStore(Protocol):
    """Immutable bytes by content. Every method is safe to repeat and to run beside itself."""

    async def put(
        self, chunks: AsyncIterator[bytes], expected_sha256: str | None = None
    ) -> StoredBlob:
        """Stores the chunks, durably once this returns; nothing stays of a put that raises.

        Raises: InvalidArgument (SHA256_MISMATCH), ResourceExhausted (DISK_FULL), Unavailable
            (STORE_UNAVAILABLE), and what the iterator raises.
        """
        ...

    async def put_file(self, path: Path, sha256: str) -> StoredBlob:
        """Takes a finished file of this machine in; the file may be moved away. Its content is
        verified. Raises: as `put`.
        """
        ...

    def read(self, sha256: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from an offset on, in chunks of at most CHUNK_BYTES.

        All of the blob is verified whatever the offset: a reader has good bytes only once the
        iterator ended without an error.
        Raises: NotFound (BLOB_NOT_FOUND), OutOfRange, DataLoss (BLOB_DAMAGED).
        """
        ...

    async def stat(self, sha256: str) -> StoredBlob | None:
        """None when there is no such blob."""
        ...

    async def delete(self, sha256: str) -> None:
        """Forgets a blob; one that is not there is forgotten already."""
        ...

    def list(self) -> AsyncIterator[StoredBlob]:
        """All blobs, by sha256."""
        ...


def verify(digest: Any, sha256: str) -> None:
    if digest.hexdigest() != sha256:
        raise DataLoss(
            f"blob {sha256} is damaged: its bytes have another sha256; store it again",
            reason="BLOB_DAMAGED",
        )


def missing(sha256: str) -> NotFound:
    return NotFound(f"there is no blob {clip(sha256)}", reason="BLOB_NOT_FOUND")


def mismatch(expected: str, actual: str) -> InvalidArgument:
    return InvalidArgument(
        f"the bytes have the sha256 {actual}, expected {clip(expected)}; send them again",
        reason="SHA256_MISMATCH",
    )


def check_offset(offset: int, size_bytes: int) -> None:
    """Raises: OutOfRange (OFFSET_OUT_OF_RANGE)."""
    if not 0 <= offset <= size_bytes:
        raise OutOfRange(
            f"offset {offset} is outside of the blob, which has {size_bytes} bytes",
            reason="OFFSET_OUT_OF_RANGE",
        )
