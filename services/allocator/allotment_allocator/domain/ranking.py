"""The least of many whose ranks change one at a time."""

from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=tuple[Any, ...])


class Ranking(Generic[K, R]):
    """Keys, each with its newest rank. Ranks of different keys differ."""

    def __init__(self) -> None:
        self._ranks: dict[K, R] = {}
        # Older ranks of a key stay here until they come to the top.
        self._heap: list[tuple[R, K]] = []

    def put(self, key: K, rank: R) -> None:
        """Adds the key, or gives it another rank."""
        if self._ranks.get(key) != rank:
            self._ranks[key] = rank
            heappush(self._heap, (rank, key))

    def drop(self, key: K) -> None:
        self._ranks.pop(key, None)

    def first(self) -> K | None:
        """The key of the least rank; None: there is none."""
        while self._heap:
            rank, key = self._heap[0]
            if self._ranks.get(key) is rank:
                return key
            heappop(self._heap)
        return None
