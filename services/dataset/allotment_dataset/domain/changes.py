"""Who waits for a resource to change is woken when it does."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator


class Changes:
    """Wakes waiters of this process.

    Changes that other processes make are seen when the wait times out.
    """

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)

    def tell(self, name: object) -> None:
        for event in self._waiters.get(str(name), ()):
            event.set()

    @contextlib.contextmanager
    def watch(self, name: object) -> Iterator[asyncio.Event]:
        """An event that is set at every change while the context lasts."""
        event = asyncio.Event()
        key = str(name)
        self._waiters[key].add(event)
        try:
            yield event
        finally:
            self._waiters[key].discard(event)
            if not self._waiters[key]:
                del self._waiters[key]
