"""A wire to PostgreSQL that breaks at a COMMIT: before the server has it, or before its answer."""

import enum
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class Cut(enum.Enum):
    """Where the next COMMIT breaks its connection."""

    NEVER = "NEVER"
    BEFORE = "BEFORE"
    """The server does not get it, and sees the connection end."""
    AFTER = "AFTER"
    """The server carries it out; the client does not hear of it."""
    SILENT = "SILENT"
    """The server does not get it, and does not see that anybody left."""


class CommitCutter:
    """Passes bytes both ways between one local port and a server, until a COMMIT is to be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.next = Cut.NEVER
        self.cut_count = 0
        self.refuses = False
        """New connections end at once."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            _end(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuses:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._open += [client, server]
                broken = threading.Event()
                for target in (self._requests, self._answers):
                    threading.Thread(
                        target=target, args=(client, server, broken), daemon=True
                    ).start()

    def _requests(
        self, client: socket.socket, server: socket.socket, broken: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                if self.next is not Cut.NEVER and data.startswith(b"Q") and b"COMMIT" in data:
                    cut, self.next = self.next, Cut.NEVER
                    self.cut_count += 1
                    broken.set()
                    if cut is Cut.AFTER:
                        server.sendall(data)
                        return  # the answer ends it
                    _end(client)
                    if cut is Cut.SILENT:
                        return
                    break
                server.sendall(data)
        _end(server)

    def _answers(
        self, client: socket.socket, server: socket.socket, broken: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if broken.is_set():
                    break
                client.sendall(data)
        _end(client)


def _end(wire: socket.socket) -> None:
    with suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()


@contextmanager
def commit_cutter(url: str) -> Iterator[tuple[CommitCutter, str]]:
    """A cutter before the server of a URL over TCP, and the URL that goes through it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    cutter = CommitCutter(parts.hostname, parts.port)
    place = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{cutter.port}"
    try:
        yield cutter, urlunsplit(parts._replace(netloc=place, query="sslmode=disable"))
    finally:
        cutter.close()
