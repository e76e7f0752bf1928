"""The tenants' bytes: stored once, held by owners, collected when nobody holds them.

No collection can meet a store: a store first marks its intent on the record (`_begin`), then moves
the bytes in, then takes the hold only if the record is still of the same incarnation (`_finish`).
A collection takes a record only when it has no holder and no recent intent, and its bytes go
before the record does.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from allotment_core.clock import Clock
from allotment_core.errors import (
    DataLoss,
    FieldViolation,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    clip,
)
from allotment_core.names import BlobName, TenantName, new_id
from allotment_dataset.domain.holds import (
    MOST_NAMES,
    Blob,
    BlobRecord,
    BlobState,
    no_such_blob,
    parse_owner,
)
from allotment_dataset.domain.ports import Bytes, Records, Spool, Store

log = logging.getLogger(__name__)

R = TypeVar("R")

_COLLECTED_AT_ONCE = 100
_PAUSE_S = 0.05
_PAUSES = 100


class Blobs:
    """All blobs; physically one for equal bytes, whoever holds them."""

    def __init__(
        self,
        store: Store,
        stored: Bytes,
        spool: Spool,
        clock: Clock,
        *,
        grace: timedelta,
        limit_bytes: int,
    ) -> None:
        self._store = store
        self._bytes = stored
        self._spool = spool
        self._clock = clock
        self._grace = grace
        self._limit_bytes = limit_bytes

    async def put(
        self, parent: TenantName, owner: str, chunks: AsyncIterator[bytes], sha256: str
    ) -> Blob:
        """Stores what the chunks make and lets the owner hold it. `sha256` "" is not compared."""
        tenant, owner = parse_owner(owner)
        if tenant != parent:
            raise InvalidArgument(
                f"owner {clip(owner)!r} is not of {parent}; bytes are held by a resource of "
                "their tenant",
                reason="INVALID_OWNER",
                violations=(FieldViolation("owner", "has to be of the parent"),),
            )
        path, digest, size_bytes = await self._spool.write(chunks, self._limit_bytes)
        try:
            if sha256 and sha256 != digest:
                raise InvalidArgument(
                    f"the bytes have the sha256 {digest}, announced was {clip(sha256)}; send "
                    "them again",
                    reason="CHECKSUM_MISMATCH",
                )
            await self.adopt(path, digest, size_bytes, tenant, owner)
        finally:
            await self._spool.drop(path)
        return Blob(name=BlobName(tenant, digest), size_bytes=size_bytes)

    async def adopt(
        self, path: Path, sha256: str, size_bytes: int, tenant: TenantName, owner: str
    ) -> None:
        """Moves a finished file in, held by the owner. The file is gone afterwards."""
        incarnation = await self._begin(sha256, size_bytes)
        await self._bytes.put_file(path, sha256)
        await self._finish(sha256, incarnation, tenant, owner)

    async def _begin(self, sha256: str, size_bytes: int) -> str:
        """Marks the intent to store; gives the incarnation.

        Waits while the blob is being collected.
        """
        now = self._clock.now()
        fresh = BlobRecord(
            sha256=sha256,
            size_bytes=size_bytes,
            incarnation=new_id("i"),
            state=BlobState.LIVE,
            touch_time=now,
        )

        def work(records: Records) -> str | None:
            there = records.blob(sha256)
            if there is not None and there.state is BlobState.COLLECTING:
                return None
            records.put_blob(replace(there, touch_time=now) if there else fresh)
            return there.incarnation if there else fresh.incarnation

        for _ in range(_PAUSES):
            incarnation = await self._store.write(work)
            if incarnation is not None:
                return incarnation
            await asyncio.sleep(_PAUSE_S)
        raise Unavailable(
            "the same bytes are being deleted right now; try again in a second",
            reason="BLOB_BUSY",
            retry_after_s=1.0,
        )

    async def _finish(self, sha256: str, incarnation: str, tenant: TenantName, owner: str) -> None:
        def work(records: Records) -> bool:
            there = records.blob(sha256)
            if (
                there is None
                or there.incarnation != incarnation
                or there.state is not BlobState.LIVE
            ):
                return False
            records.hold(tenant, sha256, owner)
            return True

        if not await self._store.write(work):
            raise Unavailable(
                "storing took so long that the bytes were collected meanwhile; send them again",
                reason="BLOB_BUSY",
                retry_after_s=1.0,
            )

    async def get(self, name: BlobName) -> Blob:
        def work(records: Records) -> BlobRecord | None:
            return records.blob(name.sha256) if records.holds(name.tenant, name.sha256) else None

        there = await self._store.read(work)
        if there is None:
            raise no_such_blob(name)
        return Blob(name=name, size_bytes=there.size_bytes)

    async def read(self, name: BlobName, offset: int) -> AsyncIterator[bytes]:
        """The bytes from the offset. Raises: NotFound, OutOfRange, DataLoss."""
        blob = await self.get(name)
        if not 0 <= offset <= blob.size_bytes:
            raise OutOfRange(
                f"offset {offset} is not within the blob's {blob.size_bytes} bytes",
                reason="OFFSET_TOO_FAR",
            )
        try:
            async for piece in self._bytes.read(name.sha256, offset):
                yield piece
        except NotFound as e:
            raise DataLoss(
                f"the bytes of {name} are gone from the store; restore it from a backup",
                reason="BLOB_LOST",
            ) from e

    async def hold(
        self, owner: str, names: Sequence[BlobName], to_response: Callable[[None], R]
    ) -> R:
        """Lets an owner hold blobs that something of its tenant holds already."""
        tenant, owner = parse_owner(owner)
        if len(names) > MOST_NAMES:
            raise InvalidArgument(
                f"{len(names)} blobs are named; the limit is {MOST_NAMES} a call: make several "
                "calls",
                violations=(FieldViolation("names", f"at most {MOST_NAMES}"),),
            )

        def work(records: Records) -> None:
            for name in names:
                if name.tenant != tenant or not records.holds(tenant, name.sha256):
                    raise no_such_blob(name)
                records.hold(tenant, name.sha256, owner)

        return await self._store.respond(work, to_response)

    async def release(self, owner: str, to_response: Callable[[int], R]) -> R:
        tenant, owner = parse_owner(owner)
        now = self._clock.now()
        return await self._store.respond(
            lambda records: records.release(tenant, owner, now), to_response
        )

    async def collect(self) -> int:
        """Deletes bytes that nobody has held for the grace period; how many.

        One caller at a time.
        """
        before = self._clock.now() - self._grace

        def mark(records: Records) -> list[str]:
            found = records.unheld_blobs(before, _COLLECTED_AT_ONCE)
            for record in found:
                records.put_blob(replace(record, state=BlobState.COLLECTING))
            return [record.sha256 for record in found]

        marked = await self._store.write(mark)
        for sha256 in marked:
            await self._bytes.delete(sha256)

        def forget(records: Records) -> None:
            for sha256 in marked:
                records.delete_blob(sha256)

        if marked:
            await self._store.write(forget)
            log.info("blobs collected", extra={"count": len(marked)})
        return len(marked)
