"""What all conductors share."""

import asyncio
from dataclasses import dataclass, field

from allotment_controller.domain.experience import Experiences
from allotment_controller.domain.experiment import BudgetStart
from allotment_controller.domain.keeper import LeaseKeeper
from allotment_controller.domain.ports import Changes, Datasets, Exports, Sampling, Store
from allotment_controller.domain.seat import Seats
from allotment_controller.domain.shelf import Shelf
from allotment_core.clock import Clock
from allotment_search import Grammar
from allotment_search.halving import Halving


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The ports and settings, built once."""

    store: Store
    datasets: Datasets
    exports: Exports
    experiences: Experiences
    keeper: LeaseKeeper
    seats: Seats
    changes: Changes
    clock: Clock
    grammar: Grammar
    away_grace_s: float
    export_limit: int
    trial_limit_s: float
    halving: Halving = field(default_factory=Halving)
    budget_start: BudgetStart = BudgetStart.CREATED
    """Of experiments that are created; each keeps its own."""
    mixers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Ensembles that are computed at once."""
    shelf: Shelf = field(default_factory=Shelf)
    sampling: Sampling | None = None
    """None: beyond the portfolio trials are drawn at random."""
