"""What changed since the store was written: stages of running exports, and who waits for news."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from allotment_core.names import ExportName
from allotment_exporter.domain.exports import Export, ExportState


class Changes:
    """Stages are not worth a write each: they live here, and watchers are woken at each one."""

    def __init__(self) -> None:
        self._running: dict[ExportName, Export] = {}
        self._watchers: dict[ExportName, set[asyncio.Event]] = {}
        self.closed = False

    def newest(self, stored: Export) -> Export:
        """The export with the stage that it reached since it was stored."""
        if stored.state is not ExportState.RUNNING:
            return stored
        return self._running.get(stored.name, stored)

    def reached(self, export: Export) -> None:
        """A running export is further on."""
        self._running[export.name] = export
        self._wake(export.name)

    def stored(self, name: ExportName) -> None:
        """The store says something new of an export that does not run (any more)."""
        self._running.pop(name, None)
        self._wake(name)

    def close(self) -> None:
        """No more news: watchers have to leave."""
        self.closed = True
        for name in list(self._watchers):
            self._wake(name)

    @contextmanager
    def watch(self, name: ExportName) -> Iterator[asyncio.Event]:
        """An event that is set at each change; many changes may set it once."""
        changed = asyncio.Event()
        watchers = self._watchers.setdefault(name, set())
        watchers.add(changed)
        try:
            yield changed
        finally:
            watchers.discard(changed)
            if not watchers:
                self._watchers.pop(name, None)

    def _wake(self, name: ExportName) -> None:
        for changed in self._watchers.get(name, ()):
            changed.set()
