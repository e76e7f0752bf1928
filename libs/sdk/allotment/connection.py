"""One channel to a server, and what a client does while that server is away.

Reads and mutations alike (their `request_id` makes a repeated one harmless) are tried again for
`patience_s` after the server went away; streams are opened again where they were. `on_outage` is
told once when an outage begins and once when it is over.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import uuid4

import grpc
import grpc.aio

from allotment.settings import Settings
from allotment_core.errors import AllotmentError, DeadlineExceeded, InvalidArgument, Unavailable
from allotment_core.rpc.client import channel, from_rpc_error

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)
Item = TypeVar("Item")
Notice = Callable[[str], None]

ATTEMPT_S = 15.0
"""Deadline of one attempt of a unary call."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0


class Unary(Protocol[Request, Response]):
    """A unary method of an aio stub."""

    def __call__(
        self, request: Request, /, *, timeout: float | None = None
    ) -> Awaitable[Response]: ...


def new_request_id() -> str:
    return uuid4().hex


class Outage:
    """The patience with a server that is away: one for each call, from its first failure on."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    async def bear(self, error: AllotmentError) -> None:
        """Waits a moment. Raises: the error, once the patience is spent."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        patience_s = self._connection.patience_s
        if now - self._since >= patience_s:
            raise Unavailable(
                f"the server {self._connection.address} did not answer for {patience_s:g} s "
                f"({error.message}); see whether it runs and try again",
                reason="SERVER_AWAY",
            ) from error
        self._connection.note_outage(error)
        await self.pause()

    async def pause(self) -> None:
        """Waits a moment without an error: before a stream that ended too early is opened again."""
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 1.6)

    def over(self) -> None:
        self._since = None
        self._pause_s = FIRST_PAUSE_S
        self._connection.note_answer()


class Connection:
    """A channel with its settings. Made and used in one asyncio loop."""

    def __init__(self, settings: Settings, *, patience_s: float, on_outage: Notice | None) -> None:
        self.settings = settings
        self.address = settings.address
        self.patience_s = patience_s
        self._on_outage = on_outage
        self._away = False
        self.channel: grpc.aio.Channel = channel(
            settings.address, token=settings.token, ca=_read_ca(settings), retry_s=0.0
        )

    async def close(self) -> None:
        await self.channel.close()

    def note_outage(self, error: AllotmentError) -> None:
        if not self._away and self._on_outage:
            self._on_outage(
                f"no answer from {self.address} ({error.message}); "
                f"trying again for up to {self.patience_s:g} s"
            )
        self._away = True

    def note_answer(self) -> None:
        if self._away and self._on_outage:
            self._on_outage(f"{self.address} answers again")
        self._away = False

    async def call(
        self,
        method: Unary[Request, Response],
        request: Request,
        *,
        timeout_s: float = ATTEMPT_S,
    ) -> Response:
        """The response of a unary call. Raises: AllotmentError."""
        outage = Outage(self)
        while True:
            try:
                response = await method(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as e:
                await self._bear(outage, e)
            else:
                outage.over()
                return response

    async def follow(self, open_stream: Callable[[], AsyncIterator[Item]]) -> AsyncIterator[Item]:
        """The items of a stream that is opened again, by the same callable, whenever the server
        went away.
        """
        outage = Outage(self)
        while True:
            stream = open_stream()
            try:
                if isinstance(stream, grpc.aio.Call):
                    # Sent at once: an outage is over though nothing has changed since.
                    await stream.initial_metadata()
                    if not stream.done():
                        outage.over()
                async for item in stream:
                    outage.over()
                    yield item
                return
            except grpc.aio.AioRpcError as e:
                await self._bear(outage, e)
            finally:
                if isinstance(stream, grpc.aio.Call):
                    stream.cancel()

    async def _bear(self, outage: Outage, raised: grpc.aio.AioRpcError) -> None:
        error = from_rpc_error(raised)
        if not isinstance(error, Unavailable | DeadlineExceeded):
            if not isinstance(error, AllotmentError):
                raise error
            raise error from None
        await outage.bear(error)


def _read_ca(settings: Settings) -> bytes | None:
    if settings.plaintext or settings.ca is None:
        return None
    try:
        return settings.ca.read_bytes()
    except OSError as e:
        raise InvalidArgument(
            f"the CA file {settings.ca} can't be read: {e.strerror}", reason="BAD_CA"
        ) from e
