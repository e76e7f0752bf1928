"""Changes made durable in SQL and then shown on the board."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa

from allotment_allocator.adapters.sql_books import SqlBooks
from allotment_allocator.domain.absence import Absence
from allotment_allocator.domain.allocation import Allocation, Rules
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.pool import Pool
from allotment_allocator.domain.ports import Books, Trainer
from allotment_allocator.domain.snapshot import Decision
from allotment_core.clock import Clock
from allotment_core.db import Database

T = TypeVar("T")
R = TypeVar("R")


class SqlDesk:
    """Satisfies `domain.desk.Desk`."""

    def __init__(
        self,
        database: Database,
        board: Board,
        pools: Callable[[], tuple[Pool, ...] | None],
        rules: Rules,
        clock: Clock,
        trainers: Callable[[], Sequence[Trainer]],
        absence: Absence,
    ) -> None:
        self._absence = absence
        self.database = database
        self.board = board
        self._pools = pools
        self._rules = rules
        self._clock = clock
        self._trainers = trainers
        self.on_change: Callable[[], None] = lambda: None
        """Told after each durable change of a lease or a tenant."""

    def _open(self, connection: sa.Connection) -> Allocation:
        now = self._clock.now()
        books = SqlBooks(connection, self.board.by_text)
        spared_s = self._absence.spares_s(self._clock.monotonic())
        return Allocation(books, self._pools(), self._rules, now, self._trainers, spared_s)

    @property
    def may_act(self) -> bool:
        return self.database.may_act

    async def read(self, work: Callable[[Books], T]) -> T:
        return await self.database.read(lambda connection: work(SqlBooks(connection)))

    async def write(self, work: Callable[[Books], T]) -> T:
        return await self.database.write(lambda connection: work(SqlBooks(connection)))

    async def preview(self) -> Decision:
        """What a division would decide now, by what is on the board."""
        live = tuple(self.board.live.values())
        return await self.database.read(lambda connection: self._open(connection).preview(live))

    async def change(self, work: Callable[[Allocation], T]) -> T:
        done: list[Allocation] = []

        def run(connection: sa.Connection) -> T:
            allocation = self._open(connection)
            result = work(allocation)
            allocation.store()
            done[:] = [allocation]
            return result

        result = await self.database.write(run)
        self._show(done)
        return result

    async def respond(self, work: Callable[[Allocation], T], to_response: Callable[[T], R]) -> R:
        """The change of a mutating call; a repeated call gets its stored response."""
        done: list[Allocation] = []

        def run(connection: sa.Connection) -> T:
            allocation = self._open(connection)
            result = work(allocation)
            allocation.store()
            done[:] = [allocation]
            return result

        # The domain does not know messages; to_response makes one.
        response = await self.database.respond(run, to_response)  # type: ignore[type-var]
        self._show(done)
        return response

    def _show(self, done: Sequence[Allocation]) -> None:
        for allocation in done:
            self.board.publish(allocation.changed.values(), self._clock.monotonic())
            if allocation.waits is not None:
                self.board.explain_queue(allocation.waits)
        self.on_change()
