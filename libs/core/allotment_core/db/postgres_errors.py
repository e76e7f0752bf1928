"""What PostgreSQL can't do, in the error tree's terms. Passwords are in none of them."""

import psycopg
import sqlalchemy.exc

from allotment_core.db.backend import Fate
from allotment_core.errors import (
    AllotmentError,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    clip,
)

_CONFLICTS = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "55P03",  # lock_timeout
}
_LOST = {
    "57P01",  # the administrator stops the server
    "57P02",  # another session has crashed
    "57P03",  # starting up
    "57P05",  # idle for too long
    "25P03",  # idle in a transaction for too long
    "25006",  # a standby: the primary is another server now
    "53300",  # too many connections
}
_TOO_MANY = ("too many clients", "remaining connection slots", "too many connections")
_PASSING = (*_TOO_MANY, "starting up", "shutting down", "in recovery mode", "not yet accepting")


class PostgresErrors:
    """Reads the errors of one database."""

    def __init__(self, *, schema: str, place: str, password: str) -> None:
        self.schema = schema
        self.place = place
        self.name = f"PostgreSQL schema {schema}"
        self.label = schema
        self._password = password

    def fate(self, error: BaseException) -> Fate:
        error = _origin(error)
        if not isinstance(error, psycopg.Error):
            return Fate.FAILED
        if error.sqlstate in _CONFLICTS:
            return Fate.CONFLICT
        if error.sqlstate in _LOST or (error.sqlstate or "").startswith("08"):
            return Fate.LOST
        broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Fate.LOST if broken and error.sqlstate is None else Fate.FAILED

    def is_refusal(self, error: BaseException) -> bool:
        """Whether a server answered that it will not have this connection, later neither."""
        text = str(_origin(error))
        return "FATAL" in text and not any(passing in text for passing in _PASSING)

    def cleaned(self, error: BaseException) -> str:
        """The driver's text on one line."""
        text = " ".join(str(_origin(error)).split())
        if self._password:
            text = text.replace(self._password, "***")
        return clip(text, 400)

    def storage_error(self, error: BaseException) -> AllotmentError | None:
        """The error that a caller gets for a failing database; None for anything else."""
        fate = self.fate(error)
        error = _origin(error)
        if not isinstance(error, psycopg.Error):
            return None
        if fate is Fate.CONFLICT:
            return Unavailable(
                f"others keep changing the same rows of the database ({self.name}); try again",
                reason="DATABASE_BUSY",
                retry_after_s=0.5,
            )
        if error.sqlstate == "53300" or any(each in str(error) for each in _TOO_MANY):
            return ResourceExhausted(
                f"the database server has no connection left for {self.name}; try again, and let "
                "its administrator raise max_connections or start fewer services",
                reason="DATABASE_CONNECTIONS",
                retry_after_s=2.0,
            )
        if fate is Fate.LOST:
            return Unavailable(
                f"the database ({self.name}) is not reachable; try again",
                reason="DATABASE_UNAVAILABLE",
                retry_after_s=1.0,
            )
        return self._refused(error)

    def _refused(self, error: psycopg.Error) -> AllotmentError | None:
        state = error.sqlstate or ""
        if state == "53100":
            return ResourceExhausted(
                f"the database's disk is full: nothing was stored in {self.name}; "
                "free some space there and repeat the request",
                reason="DISK_FULL",
                retry_after_s=10.0,
            )
        if state == "57014" or state.startswith(("53", "58")):
            return Unavailable(
                f"the database ({self.name}) could not do it in time or in its memory; try again",
                reason="DATABASE_BUSY",
                retry_after_s=2.0,
            )
        if state in ("XX001", "XX002"):
            return DataLoss(
                f"the database ({self.name}) is damaged; restore it from a backup",
                reason="DATABASE_DAMAGED",
            )
        if state == "42501":
            return FailedPrecondition(
                f"the role of {self.name} may not do this; its administrator has to grant it the "
                "rights of the schema's owner",
                reason="DATABASE_RIGHTS",
            )
        if isinstance(error, psycopg.DataError) and "NUL" in str(error):
            return InvalidArgument(
                "a text holds the character NUL (U+0000), which can't be stored; leave it out",
                reason="NUL_CHARACTER",
            )
        return None


def _origin(error: BaseException) -> BaseException:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.orig or error
    return error
