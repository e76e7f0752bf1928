"""TrainerService: one bidirectional stream for each trainer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_controller import session_messages
from allotment_controller.domain.controller import Controller
from allotment_controller.domain.messages import Heartbeat, Hello
from allotment_controller.domain.seat import Line, Seat
from allotment_core.clock import Clock
from allotment_core.errors import DeadlineExceeded, InvalidArgument, PermissionDenied
from allotment_core.rpc import current_principal

MISSED_HEARTBEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTimes:
    """Seconds, as Welcome names them."""

    heartbeat_interval_s: float
    lease_ttl_s: float


class TrainerServicer:
    """The one method of TrainerService."""

    def __init__(self, controller: Controller, clock: Clock, times: SessionTimes) -> None:
        self._controller = controller
        self._clock = clock
        self._times = times

    async def OpenSession(
        self, requests: AsyncIterator[pb.OpenSessionRequest], context: Any
    ) -> AsyncIterator[pb.OpenSessionResponse]:
        hello = session_messages.hello(await self._first(requests))
        _check_token(hello)
        seat, line = await self._controller.open_session(hello)
        listening: asyncio.Task[None] | None = None
        try:
            yield self._welcome()
            listening = asyncio.create_task(self._listen(seat, line, hello, requests))
            async for order in line.orders():
                yield session_messages.order(
                    order, self._clock.now(), hello.threads, hello.memory_bytes
                )
            if listening.done():
                listening.result()
        finally:
            if listening is not None:
                listening.cancel()
            self._controller.left(seat, line)

    async def _first(self, requests: AsyncIterator[pb.OpenSessionRequest]) -> pb.Hello:
        try:
            async with asyncio.timeout(self._silence_s):
                request = await anext(requests)
        except (StopAsyncIteration, TimeoutError):
            raise InvalidArgument(
                "the session had no Hello; it is the first message", reason="NO_HELLO"
            ) from None
        if request.WhichOneof("message") != "hello":
            raise InvalidArgument(
                "the session began without a Hello; it is the first message", reason="NO_HELLO"
            )
        return request.hello

    async def _listen(
        self, seat: Seat, line: Line, hello: Hello, requests: AsyncIterator[pb.OpenSessionRequest]
    ) -> None:
        """Hands on what the trainer says, until it ends its stream or falls silent."""
        try:
            await self._controller.greet(seat, hello)
            while True:
                try:
                    async with asyncio.timeout(self._silence_s):
                        request = await anext(requests)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise DeadlineExceeded(
                        f"{MISSED_HEARTBEATS} heartbeats of {seat.lease} are missing; "
                        "open a new session",
                        reason="HEARTBEATS_MISSED",
                    ) from None
                said = session_messages.said(request)
                if isinstance(said, Heartbeat):
                    await self._controller.heard(seat, said)
                else:
                    await self._controller.report(seat, said)
        finally:
            line.close()

    @property
    def _silence_s(self) -> float:
        return MISSED_HEARTBEATS * self._times.heartbeat_interval_s

    def _welcome(self) -> pb.OpenSessionResponse:
        welcome = pb.Welcome()
        welcome.heartbeat_interval.FromNanoseconds(round(self._times.heartbeat_interval_s * 1e9))
        welcome.lease_ttl.FromNanoseconds(round(self._times.lease_ttl_s * 1e9))
        return pb.OpenSessionResponse(welcome=welcome)


def _check_token(hello: Hello) -> None:
    """Raises: PermissionDenied unless the token is bound to this very lease and epoch."""
    principal = current_principal()
    if principal.lease != hello.lease or principal.lease_epoch != hello.lease_epoch:
        raise PermissionDenied(
            f"the token is not bound to lease {hello.lease} with epoch {hello.lease_epoch}; "
            "a trainer uses the token that came with its lease",
            reason="OTHER_LEASE",
        )
