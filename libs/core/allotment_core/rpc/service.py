"""What a service's `build` returns and a server serves."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allotment_core.db import Database

AddToServer = Callable[[Any, Any], None]
"""A generated `add_XServiceServicer_to_server`."""


async def nothing() -> None:
    """For services without background work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service, ready to be served alone or beside others."""

    name: str
    """As in DESIGN's table: "dataset"."""
    servicers: Sequence[tuple[AddToServer, Any]]
    """Plain classes with `async def Method(self, request, context)`; streams of responses are
    async generators, streams of requests arrive as async iterators."""
    database: "Database | None" = None
    """Holds the responses of mutating calls. The server closes it, after everything else."""
    start: Callable[[], Awaitable[None]] = nothing
    """Starts background work. Called once the server listens (other services of it answer), before
    health says SERVING."""
    stop: Callable[[], Awaitable[None]] = nothing
    """Ends background work. Called after health said NOT_SERVING and the open streams were ended,
    while unary calls are still answered."""
