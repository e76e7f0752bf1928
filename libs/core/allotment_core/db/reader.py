"""Reads: a few threads, each with a connection of its own; a bounded number of reads waits."""

import asyncio
import concurrent.futures
import contextvars
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from allotment_core.db.backend import Backend, Fate, connected
from allotment_core.db.patience import Patience
from allotment_core.errors import Unavailable

T = TypeVar("T")

READERS = 4
QUEUE_LIMIT = 10_000
PATIENCE_S = 4.0
"""How long a server's restart is waited for."""


class Readers:
    """Runs works on snapshots of the database."""

    def __init__(self, engine: sa.Engine, backend: Backend) -> None:
        self._engine = engine
        self._backend = backend
        self._threads = concurrent.futures.ThreadPoolExecutor(READERS, f"read-{backend.label}")
        self._waiting = 0

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """The work's result. Raises: what the work raises, or a storage error."""
        if self._waiting >= QUEUE_LIMIT:
            raise Unavailable(
                f"{QUEUE_LIMIT} reads are waiting for the database; try again in a second",
                reason="OVERLOADED",
                retry_after_s=1.0,
            )
        context = contextvars.copy_context()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: context.run(self._read, work)
            )
        finally:
            self._waiting -= 1

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        patience = Patience(PATIENCE_S)
        while True:
            try:
                with (
                    connected(self._engine, self._backend) as connection,
                    connection.begin() as transaction,
                ):
                    result = work(connection)
                    transaction.rollback()
                    return result
            except Exception as e:
                if self._backend.fate(e) is not Fate.FAILED:
                    self._engine.dispose()  # every idle connection was to the same server
                    if patience.pause():
                        continue
                error = self._backend.storage_error(e)
                if error is None:
                    raise
                raise error from e

    def close(self) -> None:
        self._threads.shutdown()
