"""Predictions that are held in memory between ensembles, of all experiments together."""

from collections import OrderedDict
from collections.abc import Mapping

from allotment_controller.domain.recipes import Predictions
from allotment_core.names import ExperimentName

LIMIT_BYTES = 512 << 20


class Shelf:
    """What was used longest ago goes first; whoever misses it reads it again."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[ExperimentName, Mapping[int, Predictions]] = OrderedDict()

    def of(self, experiment: ExperimentName) -> Mapping[int, Predictions]:
        """By trial; empty where nothing is held (any more)."""
        return self._kept.get(experiment, {})

    def put(self, experiment: ExperimentName, predictions: Mapping[int, Predictions]) -> None:
        """Holds these, and nothing else, of an experiment."""
        self._kept[experiment] = predictions
        self._kept.move_to_end(experiment)
        while len(self._kept) > 1 and self._size_bytes() > self._limit_bytes:
            self._kept.popitem(last=False)

    def drop(self, experiment: ExperimentName) -> None:
        self._kept.pop(experiment, None)

    def _size_bytes(self) -> int:
        return sum(p.size_bytes for kept in self._kept.values() for p in kept.values())
