"""State machines as one table of legal moves."""

import enum
from collections.abc import Mapping
from typing import Generic, TypeVar

from allotment_core.errors import FailedPrecondition

S = TypeVar("S", bound=enum.Enum)


class Moves(Generic[S]):
    """Which state may follow which. Every state has its row; one without moves is final."""

    def __init__(self, table: Mapping[S, frozenset[S]]) -> None:
        states = frozenset(type(next(iter(table))))
        missing = states - table.keys()
        if missing:
            raise ValueError(f"states without a row: {sorted(s.name for s in missing)}")
        self.table: Mapping[S, frozenset[S]] = dict(table)
        self.final: frozenset[S] = frozenset(s for s, following in table.items() if not following)

    def allows(self, current: S, following: S) -> bool:
        return following in self.table[current]

    def check(self, current: S, following: S, *, what: str = "it") -> S:
        """The following state. Raises: FailedPrecondition (ILLEGAL_MOVE), naming legal moves."""
        if following in self.table[current]:
            return following
        legal = ", ".join(sorted(s.name for s in self.table[current]))
        raise FailedPrecondition(
            f"{what} is {current.name} and can't become {following.name}; "
            + (f"from here it can become {legal}" if legal else f"{current.name} is final"),
            reason="ILLEGAL_MOVE",
            state=current.name,
        )
