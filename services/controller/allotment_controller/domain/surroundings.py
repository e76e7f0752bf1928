"""What all conductors share."""

from dataclasses import dataclass

from allotment_controller.domain.keeper import LeaseKeeper
from allotment_controller.domain.ports import Changes, Datasets, Exports, Store
from allotment_controller.domain.seat import Seats
from allotment_core.clock import Clock
from allotment_search import Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The ports and settings, built once."""

    store: Store
    datasets: Datasets
    exports: Exports
    keeper: LeaseKeeper
    seats: Seats
    changes: Changes
    clock: Clock
    grammar: Grammar
    away_grace_s: float
    export_limit: int
    trial_limit_s: float
