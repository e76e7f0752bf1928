"""Group commit: one thread writes; whatever waits shares one transaction and one fsync.

A work that raises takes back only itself, by a savepoint or by running the others again. Nobody is
answered before the COMMIT that made the work durable returned; when it fails, all that shared it
get the error. A transaction that lost against another process's, or whose connection broke, runs
again for a bounded time: the works in it run again too, and no work is ever stored twice.
"""

import asyncio
import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
import sqlalchemy.event

from allotment_core.db.backend import Backend, Fate, Outcome, connected
from allotment_core.db.patience import Patience
from allotment_core.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

QUEUE_LIMIT = 10_000
BATCH_LIMIT = 512
BATCH_S = 0.05
"""After this long a batch takes no more works: its first callers have waited enough."""
PATIENCE_S = 4.0
"""How long a server's restart or a row that others keep changing is waited for. A call that waits
for a read and for a write still has time to say so, and to be repeated."""


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

    def __init__(self, engine: sa.Engine, backend: Backend) -> None:
        self._engine = engine
        self._backend = backend
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._entry = threading.Lock()
        self._ends = False
        self._lost = False
        self._changes = 0
        if backend.savepoints_cost:
            sqlalchemy.event.listen(engine, "before_cursor_execute", self._count)
        self._thread = threading.Thread(
            target=self._loop, name=f"write-{backend.label}", daemon=True
        )
        self._thread.start()

    async def submit(self, run: Callable[[sa.Connection], T]) -> T:
        """The work's result, once it is durable.

        Raises: what the work raises, or a storage error.
        """
        if self._queue.qsize() >= QUEUE_LIMIT:
            raise Unavailable(
                f"{QUEUE_LIMIT} writes are waiting for the database; try again in a second",
                reason="OVERLOADED",
                retry_after_s=1.0,
            )
        loop = asyncio.get_running_loop()
        work = _Work(run, loop, loop.create_future(), contextvars.copy_context())
        with self._entry:  # nothing comes in behind the mark that ends the queue
            if self._closed:
                raise Unavailable(
                    f"the database {self._backend.name} is closed: the server is going down",
                    reason="SHUTTING_DOWN",
                    retry_after_s=1.0,
                )
            self._queue.put(work)
        result: T = await work.future
        return result

    def close(self) -> None:
        """Finishes what waits, then ends the thread. Blocks."""
        with self._entry:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while not self._ends:
            first = self._queue.get()
            if first is None:
                break
            batch = [first]
            try:
                self._store(batch)
            except Exception as e:  # noqa: BLE001 (the thread's edge: the callers get it)
                if self._backend.fate(e) is Fate.LOST:
                    while self._take(batch):
                        pass  # they have waited for the same server
                error = self._backend.storage_error(e) or e
                for work in batch:
                    work.error = error
            _answer(batch)

    def _take(self, batch: list[_Work]) -> bool:
        """Moves a waiting work to the batch; False when none waits."""
        try:
            work = self._queue.get_nowait()
        except queue.Empty:
            return False
        if work is None:
            self._ends = True
            return False
        batch.append(work)
        return True

    def _store(self, batch: list[_Work]) -> None:
        """Runs the works, and what arrives meanwhile, until it is known what became of them."""
        patience = Patience(PATIENCE_S)
        conflicts = 0
        careful = not self._backend.savepoints_cost
        while True:
            attempt = _Attempt(careful)
            try:
                with (
                    connected(self._engine, self._backend) as connection,
                    self._backend.turn(connection, conflicts),
                ):
                    self._transact(connection, batch, attempt)
                self._note_success()
                return
            except _SpoiltError:
                if len(batch) == 1:
                    return  # its error is its answer
                careful = True
            except Exception as e:
                fate = self._backend.fate(e)
                if fate is Fate.FAILED:
                    raise
                if fate is Fate.CONFLICT:
                    conflicts += 1
                if fate is Fate.LOST:
                    self._note_loss()
                    self._engine.dispose()
                    if attempt.mark and self._is_stored(attempt.mark):
                        return
                if not patience.pause():
                    raise

    def _note_loss(self) -> None:
        if not self._lost:
            log.warning("database connection lost", extra={"database": self._backend.name})
        self._lost = True

    def _note_success(self) -> None:
        if self._lost:
            log.info("database connection is back", extra={"database": self._backend.name})
        self._lost = False

    def _is_stored(self, mark: str) -> bool:
        outcome = self._backend.outcome(self._engine, mark)
        if outcome is Outcome.UNKNOWN:
            raise Unavailable(
                f"the database ({self._backend.name}) went away while it stored this, and does not "
                "tell whether it did; repeat the request with the same request_id",
                reason="COMMIT_UNKNOWN",
                retry_after_s=1.0,
            )
        return outcome is Outcome.COMMITTED

    def _transact(self, connection: sa.Connection, batch: list[_Work], attempt: "_Attempt") -> None:
        ends = time.monotonic() + BATCH_S
        with connection.begin():
            done = 0
            first = True
            while done < len(batch):
                if not batch[done].future.cancelled():
                    if attempt.careful:
                        self._backend.savepoint(connection, first=first)
                    self._run_one(connection, batch[done], careful=attempt.careful)
                    first = False
                done += 1
                if done == len(batch) < BATCH_LIMIT and time.monotonic() < ends and not self._ends:
                    self._take(batch)
            attempt.mark = self._backend.mark(connection)

    def _run_one(self, connection: sa.Connection, work: _Work, *, careful: bool) -> None:
        work.result = work.error = None
        self._changes = 0
        try:
            work.result = work.context.run(work.run, connection)
            if not self._backend.is_intact(connection):
                # COMMIT would undo the group's changes and not say so.
                raise RuntimeError("a work went on after a statement of it had failed")
        except Exception as e:
            if self._backend.fate(e) is not Fate.FAILED:
                raise
            work.error = self._backend.storage_error(e) or e
            if careful:
                self._undo(connection, e)
            elif self._changes or not self._backend.is_intact(connection):
                raise _SpoiltError from e

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip()[:6].upper() != "SELECT":
            self._changes += 1

    def _undo(self, connection: sa.Connection, cause: Exception) -> None:
        try:
            self._backend.undo(connection)
        except Exception as e:
            if self._backend.fate(e) is not Fate.FAILED:
                raise
            raise cause from e  # the whole transaction is void, because of it


class _SpoiltError(Exception):
    """A work without a savepoint failed after it had changed something."""


@dataclass(slots=True)
class _Attempt:
    careful: bool
    """Whether each work has a savepoint. Without them most batches need fewer round trips, and one
    with a work that fails half-way runs again."""
    mark: str = ""
    """What the backend knows the transaction by, once its COMMIT is on its way."""


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
