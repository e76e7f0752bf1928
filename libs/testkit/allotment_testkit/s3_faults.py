"""What goes wrong between a client and an S3 server: a proxy that does it on request."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

from allotment_testkit.s3 import S3Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to the next `times` requests of a method, in one of these ways."""

    method: str
    """"GET", "PUT", ...; "" is any."""
    query: str = ""
    """Only requests whose query has this in it."""
    times: int = 1
    status: int = 0
    """Answered with this status and an S3 error with the code, unseen by the server."""
    code: str = ""
    cut_answer_at: int = -1
    """The connection is reset after so many bytes of the answer's body."""
    cut_request_at: int = -1
    """The connection is reset after so many bytes of the request's body."""
    answer_lost: bool = False
    """The server does it, but the connection is reset before its answer."""
    silent_s: float = 0.0
    """Nothing is answered for so long."""


@dataclass(slots=True)
class FaultyS3:
    """A front of an S3 server. Faults happen in the order in which they were added."""

    server: S3Server
    """To be used in place of the real one."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Method and query of all that came."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        with self._lock:
            self.faults.append(fault)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault of this request, if one is left for it."""
        query = path.partition("?")[2]
        with self._lock:
            self.requests.append(f"{method} {query}".strip())
            for place, fault in enumerate(self.faults):
                if fault.method in ("", method) and fault.query in query:
                    if fault.times > 1:
                        self.faults[place] = replace(fault, times=fault.times - 1)
                    else:
                        del self.faults[place]
                    return fault
        return None


@contextmanager
def faulty_s3(server: S3Server, tls: ssl.SSLContext | None = None) -> Iterator[FaultyS3]:
    """A front on 127.0.0.1, with TLS where a context is given, that is gone at the end of the
    block.
    """
    with urllib3.PoolManager(maxsize=16, retries=False, timeout=30.0) as pool:

        class Handler(_Handler):
            front: FaultyS3
            target = server.endpoint
            upstream = pool

        listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        listener.daemon_threads = True
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        scheme = "https" if tls else "http"
        endpoint = f"{scheme}://127.0.0.1:{listener.server_address[1]}"
        Handler.front = FaultyS3(server=replace(server, endpoint=endpoint))
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield Handler.front
        finally:
            listener.shutdown()
            listener.server_close()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: FaultyS3
    target: str
    upstream: urllib3.PoolManager

    def _serve(self) -> None:
        fault = self.front.take(self.command, self.path) or Fault(method="")
        wanted = int(self.headers.get("content-length") or 0)
        if fault.cut_request_at >= 0:
            self.rfile.read(min(wanted, fault.cut_request_at))
            self._reset()
            return
        body = self.rfile.read(wanted)
        if fault.silent_s:
            time.sleep(fault.silent_s)
            self._reset()
        elif fault.status:
            self._refuse(fault)
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>on request</Message></Error>".encode()
        content = b"" if self.command == "HEAD" else text
        self.send_response(fault.status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _forward(self, body: bytes, fault: Fault) -> None:
        answer = self.upstream.urlopen(
            self.command,
            self.target + self.path,
            body=body,
            # The Host is signed: it stays the one that the client knows.
            headers=dict(self.headers.items()),
            preload_content=False,
            redirect=False,
        )
        content = answer.read()
        if fault.answer_lost:
            self._reset()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.headers.get("content-length") if self.command == "HEAD" else None
        self.send_header("content-length", length or str(len(content)))
        self.end_headers()
        if 0 <= fault.cut_answer_at < len(content):
            self.wfile.write(content[: fault.cut_answer_at])
            self._reset()
            return
        self.wfile.write(content)

    def _reset(self) -> None:
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            # What a client does that gave up, and what a reset makes of both ends.
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""
