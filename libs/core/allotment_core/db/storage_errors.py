"""What a database can't do, in the error tree's terms."""

import shutil
import sqlite3
from pathlib import Path

import sqlalchemy.exc

from allotment_core.errors import AllotmentError, DataLoss, ResourceExhausted, Unavailable

_FULL_BELOW_BYTES = 256 * 1024
"""An I/O error with less free space than this is taken for a full disk."""


def storage_error(error: BaseException, path: Path) -> AllotmentError | None:
    """The error that a caller gets for a failing disk or database; None for anything else."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        error = error.orig or error
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError):
        return None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return disk_full(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(
            f"the database {path.name} is locked by another process; try again",
            reason="DATABASE_BUSY",
            retry_after_s=0.5,
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return Unavailable(
            f"the database {path.name} can't be read or written ({error}); "
            "the server's administrator has to look at its disk",
            reason="DATABASE_UNAVAILABLE",
            retry_after_s=5.0,
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DataLoss(
            f"the database {path.name} is damaged ({error}); restore it from a backup",
            reason="DATABASE_DAMAGED",
        )
    return None


def disk_full(path: Path) -> ResourceExhausted:
    """The error for a write that found no room."""
    return ResourceExhausted(
        f"the server's disk is full: nothing was stored in {path.name}; "
        "free some space there and repeat the request",
        reason="DISK_FULL",
        retry_after_s=10.0,
    )


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FULL_BELOW_BYTES
    except OSError:
        return False
