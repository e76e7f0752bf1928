"""Where trainers run: this machine, or a cluster."""

from collections.abc import Callable
from typing import Protocol

from allotment_allocator.domain.board import Board
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.identity import PodKeys, TrainerPods
from allotment_allocator.domain.pool import Pool
from allotment_allocator.domain.ports import Launcher
from allotment_allocator.domain.queueing import Queueing
from allotment_allocator.domain.staffing import StaffRules


class Site(Protocol):
    """The slots that there are, and who starts trainers on them."""

    @property
    def launcher(self) -> Launcher: ...

    @property
    def dedicated_nodes(self) -> bool:
        """Whether a tenant can have nodes alone."""
        ...

    @property
    def queueing(self) -> Queueing:
        """Whose trainers a queue admits."""
        ...

    @property
    def staffing(self) -> StaffRules: ...

    @property
    def pools(self) -> tuple[Pool, ...] | None:
        """As they are now; None: not known yet, nothing is decided. Asked from any thread."""
        ...

    @property
    def trainer_pods(self) -> TrainerPods | None:
        """None: trainers don't run in pods."""
        ...

    @property
    def pod_keys(self) -> PodKeys | None:
        """What pods' tokens are verified with."""
        ...

    def start(self, desk: Desk, board: Board, on_change: Callable[[], None]) -> None:
        """Begins to look; `on_change` is told when pools or trainers have changed."""
        ...

    async def close(self) -> None: ...
