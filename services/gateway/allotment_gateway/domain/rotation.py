"""Which of a service's servers takes the next call."""

from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Rotation(Generic[T]):
    """The servers in turn, those that say SERVING before all others."""

    def __init__(self, servers: Sequence[T]) -> None:
        """Raises: ValueError for none."""
        if not servers:
            raise ValueError("a service needs at least one address")
        self._servers = tuple(servers)
        self._serving = [False] * len(self._servers)
        self._last = -1

    @property
    def any_serving(self) -> bool:
        return any(self._serving)

    def set_serving(self, server: T, serving: bool) -> None:
        self._serving[self._servers.index(server)] = serving

    def next(self) -> T:
        """The next one that serves; where none does, the next one: it answers for itself."""
        count = len(self._servers)
        order = [(self._last + step) % count for step in range(1, count + 1)]
        self._last = next((place for place in order if self._serving[place]), order[0])
        return self._servers[self._last]
