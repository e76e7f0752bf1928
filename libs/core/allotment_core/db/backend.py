"""What the kinds of databases do each in their own way."""

import enum
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import sqlalchemy as sa

from allotment_core.db.leadership import LeaderRow
from allotment_core.errors import AllotmentError


class Fate(enum.Enum):
    """What an error says about the transaction that it came out of."""

    FAILED = "FAILED"
    """The work can't be done: its caller gets the error."""
    CONFLICT = "CONFLICT"
    """Nothing of the transaction is stored, because another one was faster: it may run again."""
    LOST = "LOST"
    """The connection is gone; unless it was committing, nothing of the transaction is stored."""


class Outcome(enum.Enum):
    """What became of a transaction whose COMMIT was not answered."""

    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    UNKNOWN = "UNKNOWN"


class Backend(Protocol):
    """One database, opened by its URL. `name` stands in errors and never holds a secret."""

    savepoints_cost: bool
    """Whether each is a round trip to a server."""

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str:
        """A short word for names of threads."""
        ...

    def engine(self, *, connections: int, writes: bool) -> sa.Engine:
        """With a bounded pool; transactions of one that does not write see one snapshot."""
        ...

    def create(self, engine: sa.Engine, patience_s: float | None = None) -> None:
        """Makes what the tables stand in, where it is missing; waits so long for a server.

        Raises: Unavailable when there is none then.
        """
        ...

    def migrating(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """Around the transaction of a migration, on its connection: only one process is in it."""
        ...

    def settle_schema(self, connection: sa.Connection) -> Mapping[str, int]:
        """Last in that transaction. Rows that refer to none, by table."""
        ...

    def turn(self, connection: sa.Connection, conflicts: int) -> AbstractContextManager[None]:
        """Around a writing transaction; after many conflicts it runs while no other one does."""
        ...

    def leader_row(self, holder: str, ttl_s: float) -> LeaderRow | None:
        """Who of several processes may write; None: only one of them can have the database."""
        ...

    def fence(self, term: int, on_deposed: Callable[[], None]) -> None:
        """From now on a writing transaction raises `deposed` once the term is over.

        `on_deposed` is called in the writer's thread.
        """
        ...

    def savepoint(self, connection: sa.Connection, *, first: bool) -> None:
        """What is done after it can be taken back without what was done before."""
        ...

    def undo(self, connection: sa.Connection) -> None:
        """Takes back to the last savepoint."""
        ...

    def is_intact(self, connection: sa.Connection) -> bool:
        """Whether the transaction can go on after a work of it raised."""
        ...

    def mark(self, connection: sa.Connection) -> str:
        """Right before COMMIT: what `outcome` will know the transaction by.

        A backend whose COMMIT always answers has no marks.
        """
        ...

    def outcome(self, engine: sa.Engine, mark: str) -> Outcome:
        """What became of it; asked on a new connection. Waits a while for the server."""
        ...

    def fate(self, error: BaseException) -> Fate: ...

    def storage_error(self, error: BaseException) -> AllotmentError | None:
        """The error that a caller gets for a failing disk or database; None for anything else."""
        ...


@contextmanager
def connected(engine: sa.Engine, backend: Backend) -> Iterator[sa.Connection]:
    """A connection of the engine's pool; one that broke does not go back into it."""
    with engine.connect() as connection:
        try:
            yield connection
        except Exception as e:
            if backend.fate(e) is Fate.LOST:
                connection.invalidate()
            raise
