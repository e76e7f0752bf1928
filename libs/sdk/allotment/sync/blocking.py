"""Blocking forms of asyncio calls: one background thread runs the loop that all of a client's
calls live in.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from allotment_core.errors import FailedPrecondition

G = TypeVar("G")
P = ParamSpec("P")
R = TypeVar("R")


class LoopThread:
    """An asyncio loop in a daemon thread. Not to be used after a fork."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="allotment-client", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """The coroutine's result. An interrupt (Ctrl-C) cancels it. Raises: FailedPrecondition
        once closed.
        """
        if not self.alive:
            work.close()
            raise FailedPrecondition("the client is closed; make a new one", reason="CLIENT_CLOSED")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[R]) -> Iterator[R]:
        try:
            while True:
                try:
                    item = self.run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None and self.alive:
                self.run(close())

    def close(self) -> None:
        if self.alive:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _next(items: AsyncIterator[R]) -> R:
    return await anext(items)


class Blocking(Generic[G]):
    """Blocking twin of a group of asyncio calls."""

    def __init__(self, group: G, loop: LoopThread) -> None:
        self._group = group
        self._loop = loop


def blocking(
    method: Callable[Concatenate[G, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Blocking[G], P], R]:
    """The blocking twin of an asyncio method."""

    @functools.wraps(method)
    def call(self: Blocking[G], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._group, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[G, P], AsyncIterator[R]],
) -> Callable[Concatenate[Blocking[G], P], Iterator[R]]:
    """The blocking twin of an asyncio method that yields."""

    @functools.wraps(method)
    def call(self: Blocking[G], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return self._loop.iterate(method(self._group, *args, **kwargs))

    return call
