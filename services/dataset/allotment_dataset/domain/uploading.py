"""Takes uploads: chunk by chunk, durable when answered, repeatable by (upload, offset)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from allotment_core.clock import Clock
from allotment_core.errors import FailedPrecondition, NotFound
from allotment_core.names import TenantName, UploadName, new_id
from allotment_dataset.domain import uploads
from allotment_dataset.domain.ports import Records, Store, UploadFile, UploadFiles
from allotment_dataset.domain.uploads import Chunk, Upload

log = logging.getLogger(__name__)

R = TypeVar("R")

_SETTLE_BYTES = 256 << 20
"""Bytes of one stream after which it is noted how far it is."""
_LINGER_S = 10.0
"""How long an upload's file stays open for its next stream."""
_SWEEP = 100


@dataclass(slots=True, kw_only=True)
class _Session:
    """An upload that is being written to, by one stream or by several."""

    upload: Upload
    file: UploadFile
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    closing: asyncio.Task[None] | None = None


class Uploads:
    """All uploads of this process."""

    def __init__(self, store: Store, files: UploadFiles, clock: Clock, *, limit_bytes: int) -> None:
        self._store = store
        self._files = files
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._sessions: dict[UploadName, asyncio.Task[_Session]] = {}

    async def create(
        self,
        parent: TenantName,
        *,
        size_bytes: int,
        sha256: str,
        to_response: Callable[[Upload], R],
    ) -> R:
        uploads.check_announcement(size_bytes, limit_bytes=self._limit_bytes)
        now = self._clock.now()
        upload = Upload(
            name=UploadName(parent, new_id("upload")),
            announced_bytes=size_bytes,
            announced_sha256=sha256,
            create_time=now,
            expire_time=now + uploads.LIFETIME,
        )

        def work(records: Records) -> Upload:
            records.put_upload(upload)
            return upload

        return await self._store.respond(work, to_response)

    async def get(self, name: UploadName) -> Upload:
        upload = await self._store.read(lambda records: records.upload(name))
        if upload is None:
            raise _no_such_upload(name)
        return upload

    async def delete(self, name: UploadName, to_response: Callable[[None], R]) -> R:
        def work(records: Records) -> None:
            if records.upload(name) is None:
                raise _no_such_upload(name)
            if records.upload_in_use(name):
                raise FailedPrecondition(
                    f"{name} is being imported; wait for the import to end, or cancel it",
                    reason="UPLOAD_IN_USE",
                )
            records.delete_upload(name)

        response = await self._store.respond(work, to_response)
        await self._let_go(name)
        await self._files.delete(name)
        return response

    async def write(self, name: UploadName, chunks: AsyncIterator[Chunk]) -> Upload:
        """Takes the chunks of one stream and answers when what it sent is durable.

        When the stream breaks, what had arrived is made durable too: GetUpload tells where to go
        on.
        """
        async with self._session(name) as session:
            try:
                async for chunk in chunks:
                    async with session.lock:
                        await self._take(session, chunk)
            finally:
                async with session.lock:
                    await self._settle(session)
            return session.upload

    @asynccontextmanager
    async def _session(self, name: UploadName) -> AsyncIterator[_Session]:
        task, session = await self._opened(name)
        if session.closing is not None:
            session.closing.cancel()
            session.closing = None
        session.users += 1
        goes_on = False
        try:
            yield session
            goes_on = not session.upload.complete
        finally:
            session.users -= 1
            if not session.users and self._sessions.get(name) is task:
                if goes_on:
                    self._linger(name, session)
                else:
                    await self._close(name, session)

    async def _opened(self, name: UploadName) -> tuple[asyncio.Task[_Session], _Session]:
        while True:
            task = self._sessions.get(name)
            if task is None:
                task = asyncio.create_task(self._open(name), name=f"open {name}")
                self._sessions[name] = task
            try:
                session = await asyncio.shield(task)
            except Exception:
                if self._sessions.get(name) is task:
                    del self._sessions[name]
                raise
            except asyncio.CancelledError:
                # Who asked for it has left; perhaps nobody else has.
                task.add_done_callback(lambda _: self._close_unused(name))
                raise
            # It may have been closed just now.
            if self._sessions.get(name) is task:
                return task, session

    def _lingering(self, name: UploadName) -> _Session | None:
        """The open session that no stream uses."""
        task = self._sessions.get(name)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        session = task.result()
        return None if session.users else session

    def _close_unused(self, name: UploadName) -> None:
        session = self._lingering(name)
        if session is not None and session.closing is None:
            self._linger(name, session)

    def _linger(self, name: UploadName, session: _Session) -> None:
        """The next stream often comes at once, and goes on with the hash of what is there."""
        session.closing = asyncio.create_task(
            self._close_later(name, session), name=f"close {name}"
        )

    async def _close_later(self, name: UploadName, session: _Session) -> None:
        await asyncio.sleep(_LINGER_S)
        await self._close(name, session)

    async def _close(self, name: UploadName, session: _Session) -> None:
        del self._sessions[name]
        await session.file.close()

    async def stop(self) -> None:
        """Closes what waits for another stream."""
        for name in list(self._sessions):
            await self._let_go(name)

    async def _let_go(self, name: UploadName) -> None:
        session = self._lingering(name)
        if session is not None:
            if session.closing is not None:
                session.closing.cancel()
            await self._close(name, session)

    async def _open(self, name: UploadName) -> _Session:
        upload = await self.get(name)
        return _Session(upload=upload, file=await self._files.open(name, upload.received_bytes))

    async def _take(self, session: _Session, chunk: Chunk) -> None:
        upload, file = session.upload, session.file
        size = file.size_bytes
        uploads.check_chunk(upload, chunk, size, limit_bytes=self._limit_bytes)
        known = min(len(chunk.data), size - chunk.offset)
        if known and not await file.same(chunk.offset, chunk.data[:known]):
            raise uploads.bytes_differ(upload, chunk.offset)
        fresh = chunk.data[known:]
        if upload.complete:
            if fresh:
                raise FailedPrecondition(
                    f"{upload.name} is complete with {size} bytes; create another upload",
                    reason="UPLOAD_COMPLETE",
                )
            return
        if fresh:
            await file.append(fresh)
        if uploads.ends_here(upload, chunk, file.size_bytes):
            await self._complete(session)
        elif file.size_bytes - upload.received_bytes >= _SETTLE_BYTES:
            await self._settle(session)

    async def _settle(self, session: _Session) -> Upload:
        """Makes what arrived durable, and says so."""
        if not session.upload.complete and session.file.size_bytes != session.upload.received_bytes:
            await session.file.sync()
            upload = session.upload.with_received(session.file.size_bytes, self._clock.now())
            session.upload = await self._record(upload)
        return session.upload

    async def _complete(self, session: _Session) -> None:
        upload, file = session.upload, session.file
        sha256 = await file.sha256()
        if upload.announced_sha256 and upload.announced_sha256 != sha256:
            session.upload = await self._record(upload.with_received(0, self._clock.now()))
            await file.clear()
            raise uploads.checksum_differs(upload, sha256)
        await file.sync()
        done = upload.completed(file.size_bytes, sha256, self._clock.now())
        session.upload = await self._record(done)

    async def _record(self, upload: Upload) -> Upload:
        def work(records: Records) -> Upload:
            if records.upload(upload.name) is None:
                raise _no_such_upload(upload.name)
            records.put_upload(upload)
            return upload

        return await self._store.write(work)

    async def sweep(self) -> int:
        """Drops uploads that have expired and that no import needs; how many."""
        now = self._clock.now()
        written = {name for name in self._sessions if self._lingering(name) is None}

        def work(records: Records) -> list[UploadName]:
            gone = []
            for upload in records.expired_uploads(now, _SWEEP):
                if upload.name in written or records.upload_in_use(upload.name):
                    records.put_upload(replace(upload, expire_time=now + uploads.LIFETIME))
                else:
                    records.delete_upload(upload.name)
                    gone.append(upload.name)
            return gone

        names = await self._store.write(work)
        for name in names:
            await self._let_go(name)
            await self._files.delete(name)
        if names:
            log.info("uploads expired", extra={"count": len(names)})
        return len(names)

    async def drop_orphans(self) -> None:
        """Deletes the bytes of uploads that are on record no more: a crash came between."""

        def known(name: UploadName) -> Callable[[Records], bool]:
            return lambda records: records.upload(name) is not None

        async def keep(name: UploadName) -> bool:
            return await self._store.read(known(name))

        await self._files.keep_only(keep)


def _no_such_upload(name: UploadName) -> NotFound:
    return NotFound(f"{name} does not exist, or has expired; create an upload and send the file")
