"""Uploads: bytes that arrive in pieces, in order, and may arrive again."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from allotment_core.errors import FieldViolation, InvalidArgument, OutOfRange, ResourceExhausted
from allotment_core.names import UploadName

CHUNK_BYTES = 1 << 20
"""Bytes of a chunk at most."""

LIFETIME = timedelta(hours=24)
"""An upload expires this long after its last write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """`received_bytes` are durable.

    `announced_*` are what the client said it would send (0, "": nothing).
    """

    name: UploadName
    received_bytes: int = 0
    announced_bytes: int = 0
    announced_sha256: str = ""
    sha256: str = ""
    complete: bool = False
    create_time: datetime
    expire_time: datetime

    def with_received(self, received_bytes: int, now: datetime) -> "Upload":
        return replace(self, received_bytes=received_bytes, expire_time=now + LIFETIME)

    def completed(self, received_bytes: int, sha256: str, now: datetime) -> "Upload":
        return replace(self.with_received(received_bytes, now), sha256=sha256, complete=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One message of a write: bytes at an offset; `last`: the file ends after them."""

    offset: int
    data: bytes
    last: bool = False


def check_announcement(size_bytes: int, *, limit_bytes: int) -> None:
    """Raises: InvalidArgument, ResourceExhausted for a size that can't be uploaded."""
    if size_bytes < 0:
        raise InvalidArgument(
            f"size_bytes is {size_bytes}; it has to be 0 (unknown) or more",
            violations=(FieldViolation("size_bytes", "has to be 0 or more"),),
        )
    check_size(size_bytes, limit_bytes=limit_bytes)


def check_size(size_bytes: int, *, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise ResourceExhausted(
            f"the upload has {size_bytes} bytes; the limit is {limit_bytes}: split the file, or "
            "raise "
            "ALLOTMENT_DATASET_MAX_UPLOAD_BYTES",
            reason="UPLOAD_TOO_LARGE",
        )


def check_chunk(upload: Upload, chunk: Chunk, size_bytes: int, *, limit_bytes: int) -> None:
    """Whether a chunk can follow when `size_bytes` are there.

    Raises: OutOfRange (OFFSET_TOO_FAR) for a gap, with the size to go on from; InvalidArgument for
        a chunk that is too
        large or ends past the announced size.
    """
    if len(chunk.data) > CHUNK_BYTES:
        raise InvalidArgument(
            f"the chunk has {len(chunk.data)} bytes; the limit is {CHUNK_BYTES}: send smaller ones",
            reason="CHUNK_TOO_LARGE",
            violations=(FieldViolation("data", f"at most {CHUNK_BYTES} bytes"),),
        )
    if chunk.offset < 0 or chunk.offset > size_bytes:
        raise OutOfRange(
            f"the chunk begins at {chunk.offset}, but {size_bytes} bytes are there; go on from "
            f"{size_bytes}",
            reason="OFFSET_TOO_FAR",
            received_bytes=str(size_bytes),
        )
    end = chunk.offset + len(chunk.data)
    check_size(end, limit_bytes=limit_bytes)
    announced = upload.announced_bytes
    if announced and (end > announced or (chunk.last and end < announced)):
        raise InvalidArgument(
            f"the upload was announced with {announced} bytes, but ends at {end} or later; "
            "create one with the right size",
            reason="SIZE_MISMATCH",
        )


def ends_here(upload: Upload, chunk: Chunk, size_bytes: int) -> bool:
    """Whether the upload is complete once the chunk is there and makes `size_bytes`."""
    announced = upload.announced_bytes
    return chunk.last or (announced > 0 and size_bytes == announced)


def bytes_differ(upload: Upload, offset: int) -> InvalidArgument:
    return InvalidArgument(
        f"the chunk at {offset} has other bytes than those that were received there before; "
        f"delete {upload.name} and upload the file again",
        reason="BYTES_DIFFER",
    )


def checksum_differs(upload: Upload, sha256: str) -> InvalidArgument:
    return InvalidArgument(
        f"the received bytes have the sha256 {sha256}, announced was {upload.announced_sha256}; "
        "they were dropped: send the file again from offset 0",
        reason="CHECKSUM_MISMATCH",
    )
