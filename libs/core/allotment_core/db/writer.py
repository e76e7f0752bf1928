"""Group commit: one thread writes; whatever waits shares one transaction and one fsync.

Each work runs in its own SAVEPOINT: one that raises takes back only itself. Nobody is answered
before
the COMMIT that made the work durable returned; when it fails, all that shared it get the error.
"""

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import sqlalchemy.exc

from allotment_core.db.storage_errors import storage_error
from allotment_core.errors import Unavailable

T = TypeVar("T")

QUEUE_LIMIT = 10_000
BATCH_LIMIT = 512
BATCH_S = 0.05
"""After this long a batch takes no more works: its first callers have waited enough."""


@dataclass(slots=True, eq=False)
class _Work:
    run: Callable[[sa.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    context: contextvars.Context
    result: Any = None
    error: BaseException | None = field(default=None)


class GroupCommitWriter:
    """Runs works one after the other on the connection of a writing engine."""

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"write-{path.stem}", daemon=True)
        self._thread.start()

    async def submit(self, run: Callable[[sa.Connection], T]) -> T:
        """The work's result, once it is durable.

        Raises: what the work raises, or a storage error.
        """
        if self._closed:
            raise Unavailable(
                f"the database {self._path.name} is closed: the server is going down",
                reason="SHUTTING_DOWN",
                retry_after_s=1.0,
            )
        if self._queue.qsize() >= QUEUE_LIMIT:
            raise Unavailable(
                f"{QUEUE_LIMIT} writes are waiting for the disk; try again in a second",
                reason="OVERLOADED",
                retry_after_s=1.0,
            )
        loop = asyncio.get_running_loop()
        work = _Work(run, loop, loop.create_future(), contextvars.copy_context())
        self._queue.put(work)
        result: T = await work.future
        return result

    def close(self) -> None:
        """Finishes what waits, then ends the thread. Blocks."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        running = True
        while running:
            first = self._queue.get()
            if first is None:
                break
            batch = [first]
            try:
                running = self._run_batch(first, batch)
            except Exception as e:  # noqa: BLE001 (the thread's edge: the callers get it)
                error = storage_error(e, self._path) or e
                for work in batch:
                    work.error = work.error or error
            _answer(batch)

    def _run_batch(self, first: _Work, batch: list[_Work]) -> bool:
        """Runs the first work and what arrives meanwhile in one transaction; False at the end."""
        more = True
        ends = time.monotonic() + BATCH_S
        with self._engine.connect() as connection, connection.begin():
            self._run_one(connection, first)
            while len(batch) < BATCH_LIMIT and time.monotonic() < ends:
                try:
                    work = self._queue.get_nowait()
                except queue.Empty:
                    break
                if work is None:
                    more = False
                    break
                batch.append(work)
                self._run_one(connection, work)
        return more

    def _run_one(self, connection: sa.Connection, work: _Work) -> None:
        if work.future.cancelled():
            return
        connection.exec_driver_sql("SAVEPOINT work")
        try:
            work.result = work.context.run(work.run, connection)
        except Exception as e:  # noqa: BLE001 (the work's caller gets it)
            work.error = storage_error(e, self._path) or e
            # After some errors (a full disk) SQLite has rolled the whole transaction back: then
            # this
            # raises, and all works of the batch fail.
            connection.exec_driver_sql("ROLLBACK TO work")
        connection.exec_driver_sql("RELEASE work")


def _answer(batch: list[_Work]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Work]] = {}
    for work in batch:
        by_loop.setdefault(work.loop, []).append(work)
    for loop, works in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_results, works)


def _set_results(works: list[_Work]) -> None:
    for work in works:
        if work.future.done():
            continue
        if work.error is not None:
            work.future.set_exception(work.error)
        else:
            work.future.set_result(work.result)
