"""Streams whose first message names what the rest is about."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from allotment_core.errors import AllotmentError, FieldViolation, InvalidArgument, clip

T = TypeVar("T")

_HEARD_OUT_S = 5.0


async def headed(messages: AsyncIterator[T], fields: Sequence[str]) -> tuple[T, AsyncIterator[T]]:
    """The first message, and all of them (it too).

    Later ones may leave the fields empty, or repeat them.
    Raises: InvalidArgument for an empty stream, or (from the iterator) for a later message with
        other fields.
    """
    async for first in messages:
        return first, _same(first, messages, fields)
    raise InvalidArgument(
        f"the stream has no message; the first one needs {' and '.join(fields)}",
        reason="EMPTY_STREAM",
        violations=tuple(FieldViolation(f, "is needed in the first message") for f in fields),
    )


async def _same(first: T, rest: AsyncIterator[T], fields: Sequence[str]) -> AsyncIterator[T]:
    yield first
    async for message in rest:
        for name in fields:
            given, wanted = getattr(message, name), getattr(first, name)
            if given and given != wanted:
                raise InvalidArgument(
                    f"{name} changed within the stream from {clip(wanted)!r} to {clip(given)!r}; "
                    "open a stream for each",
                    reason="STREAM_CHANGED",
                    violations=(FieldViolation(name, "has to stay the same"),),
                )
        yield message


@asynccontextmanager
async def heard_out(messages: AsyncIterator[object]) -> AsyncIterator[None]:
    """Takes the rest of a stream, for up to 5 s, before an error goes out of the block.

    A sender whose call ends while it sends may never see why.
    """
    try:
        yield
    except AllotmentError:
        with contextlib.suppress(AllotmentError, TimeoutError):
            async with asyncio.timeout(_HEARD_OUT_S):
                async for _ in messages:
                    pass
        raise
