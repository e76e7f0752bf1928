"""The session with the controller: one lease, any number of streams, one trial at a time."""

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_api.trainer.v1 import session_pb2_grpc
from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, ErrorKind, InvalidArgument, Unavailable
from allotment_core.rpc.client import from_rpc_error
from allotment_trainer.adapters import wire
from allotment_trainer.attempt_runner import KEEP_S, AttemptRunner, Kept
from allotment_trainer.domain.job import Attempt, TrialJob
from allotment_trainer.domain.lease import Ending, Grant, LeaseClock
from allotment_trainer.domain.reports import Cause, Failure, Outbox, Report, ReportKey
from allotment_trainer.processes.preload import Offer

log = logging.getLogger(__name__)

DEFAULT_HEARTBEAT_S = 5.0
WELCOME_S = 10.0
"""How long an open stream may take to say Welcome."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
SAYING_S = 2.0
"""Of the grace, what is left for reports once a checkpoint is stored."""
BROKEN_GRACE_S = 5.0
"""What a trainer that can't run trials any more takes to say so."""

_KEEPS_FOLDS = frozenset({"PAUSED", "NO_POTENTIAL", "PREEMPTED", Ending.STOPPED.value})
"""Trials that are stopped for one of these may go on later."""
_OVER = frozenset(
    {
        ErrorKind.UNAUTHENTICATED,
        ErrorKind.PERMISSION_DENIED,
        ErrorKind.NOT_FOUND,
        ErrorKind.FAILED_PRECONDITION,
        ErrorKind.INVALID_ARGUMENT,
        ErrorKind.UNIMPLEMENTED,
    }
)
"""A stream that ends with one of these: the lease is not ours (any more)."""
_NOT_YET_KNOWN = frozenset({"INVALID_TOKEN", "TOKEN_EXPIRED"})
"""What a server says of a renewed token whose key it hasn't fetched yet, and of one that is being
renewed."""

if TYPE_CHECKING:
    Stream = grpc.aio.StreamStreamCall[pb.OpenSessionRequest, pb.OpenSessionResponse]


class Session:
    """Works for one epoch of a lease until it ends. Used once."""

    def __init__(
        self,
        grant: Grant,
        channel: grpc.aio.Channel,
        runner: AttemptRunner,
        offer: Offer,
        clock: Clock,
    ) -> None:
        self._grant = grant
        self._stub = session_pb2_grpc.TrainerServiceStub(channel)
        self._runner = runner
        self._offer = offer
        self._clock = clock
        self._lease = LeaseClock(clock.monotonic(), outlives_s=grant.outlives_s)
        self._heartbeat_s = DEFAULT_HEARTBEAT_S
        self._outbox = Outbox()
        self._work = asyncio.Event()
        """Set when there is something to send, or the session ends."""
        self._acknowledged = asyncio.Event()
        """Set whenever a report was acknowledged."""
        self._attempt: Attempt | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop_reason: str | None = None
        """Why the trial under way is being stopped; empty: nobody is told."""
        self._ending: Ending | None = None
        self._leave_by = 0.0

    async def run(self) -> Ending:
        """Until the lease is over, lost, or `leave` was called. No trial is left then."""
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                try:
                    await self._stream()
                    pause_s = FIRST_PAUSE_S
                except AllotmentError as error:
                    log.info(
                        "session lost", extra={"lease": self._grant.lease, "error": str(error)}
                    )
                    if error.kind in _OVER and not self._may_pass(error):
                        return self._ending or Ending.EXPIRED
                if (ending := self._is_over()) is not None:
                    return ending
                await asyncio.sleep(
                    min(pause_s * random.uniform(0.5, 1.0), self._patience_s() + 0.001)
                )
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            await self._drop_trial()

    def leave(self, ending: Ending, grace_s: float) -> None:
        """Ends the trial, hands in what is done, and ends the session within the grace."""
        if self._ending is None:
            self._ending = ending
            self._leave_by = self._clock.monotonic() + grace_s
        self._leave_by = min(self._leave_by, self._clock.monotonic() + grace_s)
        self._work.set()

    def _may_pass(self, error: AllotmentError) -> bool:
        """Whether the next token of the file, or the server's next look for keys, may end it."""
        return self._grant.token_file is not None and error.reason in _NOT_YET_KNOWN

    # The end

    def _is_over(self) -> Ending | None:
        now = self._clock.monotonic()
        if self._lease.is_over(now):
            return self._ending or Ending.SILENT
        if self._ending is not None and (now >= self._leave_by or self._is_done()):
            return self._ending
        return None

    def _is_done(self) -> bool:
        return self._task is None and self._outbox.is_empty()

    def _patience_s(self) -> float:
        now = self._clock.monotonic()
        left_s = self._lease.remaining_s(now)
        return left_s if self._ending is None else min(left_s, max(0.0, self._leave_by - now))

    # One stream

    async def _stream(self) -> None:
        """One connection, from Hello to its end. Raises: AllotmentError."""
        call = self._stub.OpenSession()
        reader: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(min(WELCOME_S, self._patience_s())):
                await call.write(wire.hello(self._grant, self._offer, self._running()))
                await self._welcomed(call)
            reader = asyncio.create_task(self._read(call))
            await self._write(call, reader)
        except TimeoutError:
            raise Unavailable("the controller does not answer", reason="NO_WELCOME") from None
        except grpc.aio.AioRpcError as raised:
            raise from_rpc_error(raised) from raised
        except asyncio.InvalidStateError:
            # A write to a call that has ended; its status says why.
            raise await _status(call) from None
        finally:
            if reader is not None:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await reader
            call.cancel()

    async def _welcomed(self, call: "Stream") -> None:
        response = await _next(call)
        if response is None:
            raise await _status(call)
        if response.WhichOneof("message") != "welcome":
            raise Unavailable("the controller did not say Welcome", reason="NO_WELCOME")
        self._answered(response)

    async def _read(self, call: "Stream") -> None:
        """What the controller says, to the end of the stream."""
        while (response := await _next(call)) is not None:
            self._answered(response)
            await self._obey(response)

    async def _write(self, call: "Stream", reader: "asyncio.Task[None]") -> None:
        """Reports as they come, heartbeats between. Ends with the stream or the session."""
        sent: ReportKey | None = None
        beat_at = self._clock.monotonic() + self._heartbeat_s
        while self._is_over() is None:
            self._work.clear()
            for key, report in list(self._outbox.after(sent)):
                await call.write(wire.report(key, report))
                sent = key
            now = self._clock.monotonic()
            if now >= beat_at:
                await call.write(wire.heartbeat(self._running()))
                beat_at = now + self._heartbeat_s
            if self._ending is not None and not self._runner.is_handing_in:
                self._stop_trial(self._ending.value)
            if reader.done():
                await reader
                raise await _status(call)
            await self._pause(min(beat_at - now, self._patience_s()), reader)
        await call.done_writing()

    async def _pause(self, seconds: float, reader: "asyncio.Task[None]") -> None:
        """Until there is something to send, the stream has ended, or the time is up."""
        work = asyncio.create_task(self._work.wait())
        try:
            await asyncio.wait(
                {work, reader}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            work.cancel()

    def _answered(self, response: pb.OpenSessionResponse) -> None:
        ttl_s = None
        if response.HasField("welcome"):
            ttl_s = response.welcome.lease_ttl.ToTimedelta().total_seconds()
            interval_s = response.welcome.heartbeat_interval.ToTimedelta().total_seconds()
            self._heartbeat_s = interval_s or DEFAULT_HEARTBEAT_S
        self._lease.answered(self._clock.monotonic(), ttl_s)

    # What the controller says

    async def _obey(self, response: pb.OpenSessionResponse) -> None:
        match response.WhichOneof("message"):
            case "assignment":
                await self._assigned(response.assignment)
            case "acknowledgement" if response.acknowledgement.HasField("key"):
                self._outbox.acknowledge(wire.key_of(response.acknowledgement.key))
                self._acknowledged.set()
                self._work.set()
            case "stop" if wire.attempt_of(response.stop) == self._attempt:
                self._stop_trial(response.stop.reason)
            case "revoke":
                reason = response.revoke.reason
                ending = Ending[reason] if reason in Ending.__members__ else Ending.PREEMPTED
                self.leave(ending, response.revoke.grace.ToTimedelta().total_seconds())

    async def _assigned(self, assignment: pb.Assignment) -> None:
        received = self._clock.monotonic()
        attempt = wire.attempt_of(assignment)
        known = attempt == self._attempt or attempt in self._outbox.finals()
        if known or self._ending is not None:
            return
        # One before it that is still under way has been given up by the controller.
        await self._drop_trial()
        try:
            job = wire.job_of(assignment, received, self._grant)
        except InvalidArgument as error:
            refused = Failure(cause=Cause.REFUSED, reason=error.reason, message=error.message)
            self._report(attempt, refused)
            return
        self._attempt = attempt
        self._stop_reason = None
        self._task = asyncio.create_task(self._try(job))

    # The trial

    async def _try(self, job: TrialJob) -> None:
        attempt = job.attempt
        try:
            await self._runner.run(
                job,
                lambda report: self._report(attempt, report),
                lambda: self._judged(job),
                self._keep_s,
            )
        except asyncio.CancelledError:
            if self._stop_reason:
                self._report(attempt, _stopped(self._stop_reason, self._runner.kept))
        except Unavailable:
            self.leave(Ending.BROKEN, BROKEN_GRACE_S)
        except Exception:  # the edge of an attempt: the trainer goes on
            log.exception("attempt", extra={"trial": attempt.trial})
            message = "the trainer met an unexpected error; its log says more"
            failure = Failure(cause=Cause.CRASH, reason="INTERNAL", message=message)
            self._report(attempt, failure)
        finally:
            self._attempt = self._task = None
            self._work.set()

    def _keep_s(self) -> float:
        """What storing the folds of a trial that is stopped may take; 0: nobody wants them."""
        if self._stop_reason not in _KEEPS_FOLDS:
            return 0.0
        left_s = self._patience_s() if self._ending is not None else 0.0
        return max(KEEP_S, left_s - SAYING_S)

    async def _judged(self, job: TrialJob) -> None:
        """Returns when every rung that the trial has told of was answered: it goes on."""
        while self._outbox.awaits(job.attempt, job.rungs, job.fit_rungs):
            self._acknowledged.clear()
            await self._acknowledged.wait()

    def _stop_trial(self, reason: str) -> None:
        """Ends the trial under way; its failure is reported once it is gone."""
        if self._task is not None and self._stop_reason is None:
            self._stop_reason = reason or Ending.PREEMPTED.value
            self._task.cancel()

    async def _drop_trial(self) -> None:
        """Ends the trial under way, if any, and reports nothing."""
        if self._task is None:
            return
        if self._stop_reason is None:
            self._task.cancel()
        self._stop_reason = ""
        await asyncio.wait({self._task})

    def _report(self, attempt: Attempt, report: Report) -> None:
        self._outbox.add(attempt, report)
        self._work.set()

    def _running(self) -> list[Attempt]:
        """What is in our hands: the trial under way, and those whose end is not acknowledged."""
        under_way = [self._attempt] if self._attempt is not None else []
        return list(dict.fromkeys([*under_way, *self._outbox.finals()]))


def _stopped(reason: str, kept: Kept) -> Failure:
    return Failure(
        cause=Cause.PAUSED if reason in ("PAUSED", "NO_POTENTIAL") else Cause.PREEMPTED,
        reason=reason,
        message="the trial was stopped",
        checkpoint_sha256=kept.checkpoint_sha256,
        checkpoint_folds=kept.folds,
        checkpoint_steps=kept.steps,
    )


async def _next(call: "Stream") -> pb.OpenSessionResponse | None:
    """The next message; None at the end of the stream."""
    response = await call.read()
    return response if isinstance(response, pb.OpenSessionResponse) else None


async def _status(call: "Stream") -> AllotmentError:
    """Why a stream has ended. One that ended well without a word was cut off: its server stops."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return Unavailable("the controller has closed the session", reason="SESSION_CLOSED")
    return from_rpc_error(
        grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
    )
