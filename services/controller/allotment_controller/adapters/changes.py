"""Tells watchers in this process that an experiment has changed."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from allotment_core.names import ExperimentName

_LOOK_AGAIN_S = 10.0


class Announcements:
    """Implements the domain's Changes and Announcer."""

    def __init__(self) -> None:
        self._listeners: defaultdict[ExperimentName, set[asyncio.Event]] = defaultdict(set)

    def announce(self, name: ExperimentName) -> None:
        for event in self._listeners.get(name, ()):
            event.set()

    @contextmanager
    def listen(self, name: ExperimentName) -> Iterator["EventListener"]:
        """Hears of every announcement from now on."""
        event = asyncio.Event()
        self._listeners[name].add(event)
        try:
            yield EventListener(event)
        finally:
            self._listeners[name].discard(event)
            if not self._listeners[name]:
                del self._listeners[name]


class EventListener:
    """Hears of the changes of one experiment."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def wait(self) -> None:
        """Returns after an announcement since the last wait, or after a while."""
        try:
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()
