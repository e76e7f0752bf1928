"""Where the books are: transactions on them, and what is shown once they are durable."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from allotment_allocator.domain.allocation import Allocation
from allotment_allocator.domain.ports import Books
from allotment_allocator.domain.snapshot import Decision

T = TypeVar("T")
R = TypeVar("R")


class Desk(Protocol):
    """Works are run in one transaction; what they change on leases is put on the board after it."""

    @property
    def may_act(self) -> bool:
        """False while another process may lead: what is on the board may be untrue then."""
        ...

    async def read(self, work: Callable[[Books], T]) -> T:
        """On a snapshot; the work must not write."""
        ...

    async def write(self, work: Callable[[Books], T]) -> T:
        """For changes that no watcher sees."""
        ...

    async def preview(self) -> Decision:
        """What a division would decide now, by what is on the board."""
        ...

    async def change(self, work: Callable[[Allocation], T]) -> T: ...

    async def respond(self, work: Callable[[Allocation], T], to_response: Callable[[T], R]) -> R:
        """The change of a mutating call; a repeated call gets its stored response."""
        ...
