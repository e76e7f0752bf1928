"""The folder that holds everything a local system knows.

dataset.db, controller.db,      one database per service
allocator.db, exporter.db
blobs/                          content-addressed bytes
work/                           a folder per service: uploads, caches, files in the making
key.pem, token                  0600; both survive restarts
version, lock, address          form of the folder; who uses it; where it is served
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from allotment_core.errors import FailedPrecondition, InvalidArgument, clip

FORM = 1
"""Grows when a folder of the older form needs more than the databases' own migrations."""


class StateFolder:
    """A folder that this process alone uses until it ends."""

    def __init__(self, path: Path) -> None:
        """Use `locked`."""
        self.path = path

    def database_url(self, service: str) -> str:
        return f"sqlite:///{self.path / service}.db"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    def work(self, service: str) -> Path:
        """A folder for one service alone."""
        folder = self.path / "work" / service
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def key(self) -> Path:
        return self.path / "key.pem"

    @property
    def token(self) -> Path:
        return self.path / "token"

    def read_token(self) -> str:
        """The token that an earlier start left; "" for none."""
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            return self.token.read_text(encoding="utf-8").strip()
        return ""

    def write(self, name: str, text: str) -> None:
        """Replaces a small file at once; readable by its owner alone."""
        path = self.path / name
        aside = path.with_name(f".{name}.{secrets.token_hex(4)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[StateFolder]:
    """The folder, made where it is missing, locked against every other server.

    Raises: FailedPrecondition (STATE_IN_USE, STATE_FOREIGN, STATE_TOO_NEW), InvalidArgument
    (STATE_UNWRITABLE).
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign(path)
        lock = (path / "lock").open("a+", encoding="utf-8")
    except OSError as e:
        raise InvalidArgument(
            f"the folder {path} can't be used: {e.strerror}; choose another --dir",
            reason="STATE_UNWRITABLE",
        ) from e
    with lock:
        _take(lock, path)
        state = StateFolder(path)
        _check_form(state)
        try:
            yield state
        finally:
            (path / "address").unlink(missing_ok=True)


def _refuse_foreign(path: Path) -> None:
    names = {entry.name for entry in path.iterdir()}
    if names - {"lock", "lost+found"} and "version" not in names:
        raise FailedPrecondition(
            f"{path} holds files of something else (such as {clip(min(names))!r}); "
            "choose an empty or a new folder with --dir",
            reason="STATE_FOREIGN",
        )


def _take(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip()
        raise FailedPrecondition(
            f"the folder {path} is in use by the server with process id {holder or 'unknown'}; "
            "stop it, or choose another --dir",
            reason="STATE_IN_USE",
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _check_form(state: StateFolder) -> None:
    path = state.path / "version"
    if not path.exists():
        state.write("version", json.dumps({"form": FORM}))
        return
    try:
        form = int(json.loads(path.read_text(encoding="utf-8"))["form"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FailedPrecondition(
            f"{path} is not readable as the version of a state folder; restore it from a backup, "
            "or choose another --dir",
            reason="STATE_FOREIGN",
        ) from None
    if form > FORM:
        raise FailedPrecondition(
            f"{state.path} was written by a newer version of allotment (form {form}, this one "
            f"knows {FORM}); upgrade allotment, or choose another --dir",
            reason="STATE_TOO_NEW",
        )
