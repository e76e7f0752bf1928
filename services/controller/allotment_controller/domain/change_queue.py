"""Changes of one experiment that wait for their commit; those that wait together share it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from allotment_controller.domain.ledger import Edit
from allotment_controller.domain.messages import Order
from allotment_controller.domain.scheduler import Effects
from allotment_controller.domain.seat import Seat

Alter = Callable[[Edit, Effects], None]


@dataclass(slots=True, eq=False)
class Wanted:
    """A change that waits. ``first`` is sent once it is durable, before anything else."""

    alter: Alter
    first: tuple[Seat, Order] | None
    done: "asyncio.Future[None]"

    @property
    def waits(self) -> bool:
        return not self.done.done()


class ChangeQueue:
    """While one commit is being written, the next one gathers what comes meanwhile."""

    def __init__(self, commit: Callable[[list[Wanted]], Awaitable[None]]) -> None:
        self._commit = commit
        self._waiting: list[Wanted] = []
        self._committer: asyncio.Task[None] | None = None

    async def put(self, alter: Alter, first: tuple[Seat, Order] | None = None) -> None:
        """Returns when the change is durable. Raises: what ``alter`` or the commit raises."""
        wanted = Wanted(alter, first, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        if self._committer is None:
            # A task of its own: a trainer whose stream breaks must not take a commit with it.
            self._committer = asyncio.create_task(self._work())
        await wanted.done

    async def _work(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting, []
                await self._settle(together)
        finally:
            self._committer = None

    async def _settle(self, together: list[Wanted]) -> None:
        try:
            await self._commit(together)
        except Exception as e:  # noqa: BLE001 (those who wait for it get it)
            for wanted in together:
                if wanted.waits:
                    wanted.done.set_exception(e)
        for wanted in together:
            if wanted.waits:
                wanted.done.set_result(None)
