"""A process that another one may have followed neither starts nor ends a trainer."""

from pathlib import Path
from typing import Any

from allotment_allocator.domain.board import Board
from allotment_allocator.domain.keeper import Keeper
from allotment_allocator.domain.staffing import StaffRules
from allotment_testkit.clock import ManualClock


class Untouched:
    """Whoever asks for anything of it fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


class Desk(Untouched):
    may_act = False


async def test_who_may_not_act_leaves_trainers_alone() -> None:
    untouched: Any = Untouched()
    desk: Any = Desk()
    keeper = Keeper(
        desk=desk,
        board=Board(),
        launcher=untouched,
        pools=lambda: (),
        rules=StaffRules(),
        clock=ManualClock(),
        absence=untouched,
        tokens=untouched,
        server_address=lambda: "",
        cache_dir=Path(),
    )
    await keeper.look()
