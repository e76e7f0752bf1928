"""Answers that get lost: the server did what it was asked, the client hears UNAVAILABLE."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import sqlalchemy as sa

from allotment_api.common.v1 import access_pb2
from allotment_core.db import Database
from allotment_testkit import surface
from allotment_testkit.rpc import Network

_FRAME_HEADER_BYTES = 9
_DATA, _HEADERS = 0, 1
_STORES_NOTHING = {"IssueToken"}
_READS = ("Get", "List", "Watch", "Query", "Read", "Inspect", "Fetch", "Identify")
_SETTLES_WITHIN_S = 10.0

Rows = Mapping[str, Sequence[tuple[Any, ...]]]


def mutating_methods() -> dict[str, surface.Method]:
    """Every RPC that changes something, by "Service/Method"."""
    found = {}
    for method in surface.methods():
        service, name = method.path.rsplit(".", 1)[1].split("/")
        reads = name.startswith(_READS) and method.access.verb != access_pb2.VERB_WRITE
        if not reads and name not in _STORES_NOTHING:
            found[f"{service}/{name}"] = method
    return found


class AnswerThief(Network):
    """Once it is armed, the next answer of a method is lost and its connection breaks.

    An answer begins with the first HEADERS or DATA frame: everything before is HTTP/2's own.
    """

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port)
        self.armed = False
        self.stolen_count = 0

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        if not answers:
            await super()._pump(reader, writer, answers=False)
            return
        frames = _Frames()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                kinds = list(frames.kinds(data))
                if self.armed and (_DATA in kinds or _HEADERS in kinds):
                    self.armed = False
                    self.stolen_count += 1
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._open.discard(writer)


class _Frames:
    """Finds the frames in a stream of HTTP/2."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def kinds(self, data: bytes) -> Iterator[int]:
        """The types of the frames that begin in this piece of the stream."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            missing = _FRAME_HEADER_BYTES - len(self._header)
            self._header += data[at : at + missing]
            at += missing
            if len(self._header) == _FRAME_HEADER_BYTES:
                self._left = int.from_bytes(self._header[:3], "big")
                yield self._header[3]
                self._header = b""


async def call(port: int, method: surface.Method, requests: Sequence[bytes], token: str) -> bytes:
    """The bytes of the one answer, on a connection of its own that never tries again.

    Raises: grpc.aio.AioRpcError.
    """
    options = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        if method.client_streams:
            streamed: Any = channel.stream_unary(method.path)
            return bytes(await streamed(iter(requests), metadata=metadata, timeout=20))
        unary: Any = channel.unary_unary(method.path)
        return bytes(await unary(requests[0], metadata=metadata, timeout=20))


class Watched:
    """A database whose rows are looked at."""

    def __init__(self, database: Database, quiet_s: float) -> None:
        self._database = database
        self._quiet_s = quiet_s
        self._tables: Sequence[str] = ()

    async def settled(self, *, but: Sequence[str] = ()) -> Rows:
        """Every row of every table, without the columns named, once nothing in the background
        changes them any more.
        """
        if not self._tables:
            self._tables = await self._database.read(lambda c: sa.inspect(c).get_table_names())
        before: Rows = {}
        async with asyncio.timeout(_SETTLES_WITHIN_S):
            while True:
                now = await self._database.read(lambda c: self._rows(c, but))
                if now == before:
                    return now
                before = now
                await asyncio.sleep(self._quiet_s)

    def _rows(self, connection: sa.Connection, but: Sequence[str]) -> Rows:
        found = {}
        for table in self._tables:
            rows = connection.exec_driver_sql(f'SELECT * FROM "{table}"').mappings()
            kept = [tuple((k, v) for k, v in row.items() if k not in but) for row in rows]
            found[table] = sorted(kept, key=repr)
        return found
