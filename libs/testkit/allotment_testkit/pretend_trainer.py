"""A trainer that trains nothing, over a real session: it makes up scores, and can misbehave."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2, session_pb2_grpc

FAMILIES = (
    "constant",
    "linear",
    "random_forest",
    "extra_trees",
    "hist_gradient_boosting",
    "lightgbm",
)

_FIT_RUNG_LIMIT = 8


def made_up_score(assignment: session_pb2.Assignment) -> float:
    """0 to 1, by the derivation alone; the constant predictor has 1."""
    if assignment.family == "families/constant":
        return 1.0
    text = b"".join(c.SerializeToString(deterministic=True) for c in assignment.derivation)
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") / 2**32


@dataclass(slots=True, kw_only=True)
class Manners:
    """How a trainer behaves."""

    train_s: float = 0.0
    repeat: int = 1
    """How often each report is sent."""
    shuffle: bool = False
    """The result is sent before the reports of its beginning."""
    break_after: set[int] = field(default_factory=set)
    """The stream breaks right after the n-th result was sent, before it is acknowledged."""
    outcome: Callable[[session_pb2.Assignment], session_pb2.TrialFailure | None] = lambda a: None
    score: Callable[[session_pb2.Assignment], float] = made_up_score
    fold_count: int = 0
    """It reports so many folds and the rungs within the first, each with the final score, and waits
    at rungs as trainers do; 0: one fold of two, with 0.5."""
    predictions_sha256: Callable[[session_pb2.Assignment], str] = lambda a: "2" * 64
    """Of a blob that is there, or not."""
    hang: bool = False
    """It takes trials and never reports anything but heartbeats."""


class PretendTrainer:
    """Lives as long as its lease: `run` returns when it is revoked or refused."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        lease: str,
        epoch: int,
        manners: Manners,
    ) -> None:
        self._open_channel = open_channel
        self._lease = lease
        self._epoch = epoch
        self._manners = manners
        self._unacknowledged: list[session_pb2.OpenSessionRequest] = []
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._outbox: asyncio.Queue[session_pb2.OpenSessionRequest | None] = asyncio.Queue()
        self._folds: dict[str, int] = {}
        self._results = 0
        self.revoked = ""
        self.refused: grpc.StatusCode | None = None
        self.assignments: list[session_pb2.Assignment] = []
        self.stops: list[session_pb2.StopTrial] = []
        self.sessions = 0
        self.answered_heartbeats = 0

    async def run(self) -> None:
        try:
            while not self.revoked and self.refused is None:
                await self._session()
                await asyncio.sleep(0.05)
        finally:
            for task in self._running.values():
                task.cancel()

    async def _session(self) -> None:
        self._outbox = asyncio.Queue()
        self.sessions += 1
        async with self._open_channel() as channel:
            call = session_pb2_grpc.TrainerServiceStub(channel).OpenSession(self._requests())
            try:
                async for response in call:
                    self._obey(response)
                    if self.revoked:
                        break
            except grpc.aio.AioRpcError as e:
                gone = (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.INVALID_ARGUMENT,
                )
                if e.code() in gone:
                    self.refused = e.code()
            finally:
                self._outbox.put_nowait(None)
                call.cancel()

    async def _requests(self) -> AsyncIterator[session_pb2.OpenSessionRequest]:
        outbox = self._outbox
        yield session_pb2.OpenSessionRequest(hello=self._hello())
        for report in list(self._unacknowledged):
            yield report
        while True:
            try:
                async with asyncio.timeout(0.1):
                    request = await outbox.get()
            except TimeoutError:
                heartbeat = session_pb2.Heartbeat(running=self._names())
                request = session_pb2.OpenSessionRequest(heartbeat=heartbeat)
            if request is None:
                return
            yield request

    def _hello(self) -> session_pb2.Hello:
        return session_pb2.Hello(
            lease=self._lease,
            lease_epoch=self._epoch,
            families=[
                session_pb2.OfferedFamily(family=f"families/{f}", available=True) for f in FAMILIES
            ],
            library_versions={"pretend": "1"},
            threads=1,
            memory_bytes=1 << 30,
            running=self._names(),
        )

    def _names(self) -> list[session_pb2.RunningTrial]:
        return [session_pb2.RunningTrial(trial=t, trial_epoch=e) for t, e in self._running]

    def _obey(self, response: session_pb2.OpenSessionResponse) -> None:
        match response.WhichOneof("message"):
            case "assignment":
                self.assignments.append(response.assignment)
                key = (response.assignment.trial, response.assignment.trial_epoch)
                if key not in self._running:
                    self._running[key] = asyncio.create_task(self._train(response.assignment))
            case "acknowledgement" if not response.acknowledgement.HasField("key"):
                self.answered_heartbeats += 1
            case "acknowledgement":
                key_bytes = response.acknowledgement.key.SerializeToString(deterministic=True)
                self._unacknowledged = [
                    r for r in self._unacknowledged if _key_bytes(r) != key_bytes
                ]
            case "stop":
                self.stops.append(response.stop)
                task = self._running.pop((response.stop.trial, response.stop.trial_epoch), None)
                if task is not None:
                    task.cancel()
                    self._leave(response.stop)
            case "revoke":
                self.revoked = response.revoke.reason

    def _leave(self, stop: session_pb2.StopTrial) -> None:
        """Hands in what was fitted of a trial that is put off."""
        if not self._manners.fold_count or stop.reason != "NO_POTENTIAL":
            return
        folds = self._folds[stop.trial]
        failure = session_pb2.TrialFailure(cause=search_pb2.ATTEMPT_CAUSE_PAUSED)
        if folds:
            name = hashlib.sha256(f"{stop.trial} {folds}".encode()).hexdigest()
            failure.checkpoint_sha256, failure.checkpoint_folds = name, folds
        failure.key.trial, failure.key.trial_epoch = stop.trial, stop.trial_epoch
        failure.key.sequence = _FIT_RUNG_LIMIT + self._manners.fold_count + 3
        self._send(session_pb2.OpenSessionRequest(failure=failure))

    async def _fold_by_fold(self, assignment: session_pb2.Assignment) -> None:
        resumed = bool(assignment.checkpoint_sha256 and self._folds.get(assignment.trial, 0))
        for place, fit_rung in enumerate(() if resumed else assignment.fit_rungs):
            await self._tell(assignment, 2 + place, 0, fit_rung)
        # As trainers do: folds that come out of a checkpoint are reported like fitted ones.
        for fold in range(1, self._manners.fold_count + 1):
            await self._tell(assignment, _FIT_RUNG_LIMIT + 1 + fold, fold, 0)

    async def _tell(
        self, assignment: session_pb2.Assignment, sequence: int, fold: int, fit_rung: int
    ) -> None:
        progress = session_pb2.TrialProgress(
            key=self._key(assignment, sequence),
            finished_folds=fold,
            fold_count=self._manners.fold_count,
            score=self._manners.score(assignment),
            fit_rung=fit_rung,
        )
        report = session_pb2.OpenSessionRequest(progress=progress)
        self._send(report)
        if fit_rung or fold in assignment.rungs:
            self._folds[assignment.trial] = fold
            while report in self._unacknowledged:  # noqa: ASYNC110 (a test's trainer)
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    async def _train(self, assignment: session_pb2.Assignment) -> None:
        if self._manners.hang:
            await asyncio.Event().wait()
        if self._manners.fold_count:
            started = session_pb2.TrialStarted(key=self._key(assignment, 1))
            self._send(session_pb2.OpenSessionRequest(started=started))
            await self._fold_by_fold(assignment)
            await asyncio.sleep(self._manners.train_s)
            self._running.pop((assignment.trial, assignment.trial_epoch), None)
            result = self._result(assignment)
            result.key.sequence = _FIT_RUNG_LIMIT + self._manners.fold_count + 2
            self._send(session_pb2.OpenSessionRequest(result=result))
            return
        key = (assignment.trial, assignment.trial_epoch)
        started = session_pb2.TrialStarted(key=self._key(assignment, 1))
        progress = session_pb2.TrialProgress(
            key=self._key(assignment, 2), finished_folds=1, fold_count=2, score=0.5
        )
        first = [
            session_pb2.OpenSessionRequest(started=started),
            session_pb2.OpenSessionRequest(progress=progress),
        ]
        if not self._manners.shuffle:
            self._send(*first)
        await asyncio.sleep(self._manners.train_s)
        failure = self._manners.outcome(assignment)
        if failure is not None:
            failure.key.CopyFrom(self._key(assignment, 3))
            last = session_pb2.OpenSessionRequest(failure=failure)
        else:
            last = session_pb2.OpenSessionRequest(result=self._result(assignment))
        self._running.pop(key, None)
        self._send(last)
        if self._manners.shuffle:
            self._send(*first)
        self._results += 1
        if self._results in self._manners.break_after:
            self._outbox.put_nowait(None)

    def _result(self, assignment: session_pb2.Assignment) -> session_pb2.TrialResult:
        score = self._manners.score(assignment)
        return session_pb2.TrialResult(
            key=self._key(assignment, 3),
            score=score,
            metrics={"log_loss": score},
            fit_s=0.01,
            graph_sha256=hashlib.sha256(assignment.trial.encode()).hexdigest(),
            reference_sha256="1" * 64,
            predictions_sha256=self._manners.predictions_sha256(assignment),
            fold_count=self._manners.fold_count or 2,
            validation_row_count=200,
        )

    def _key(self, assignment: session_pb2.Assignment, sequence: int) -> session_pb2.ReportKey:
        return session_pb2.ReportKey(
            trial=assignment.trial, trial_epoch=assignment.trial_epoch, sequence=sequence
        )

    def _send(self, *reports: session_pb2.OpenSessionRequest) -> None:
        for report in reports:
            self._unacknowledged.append(report)
            for _ in range(self._manners.repeat):
                self._outbox.put_nowait(report)


def _key_bytes(request: session_pb2.OpenSessionRequest) -> bytes:
    report: Any = getattr(request, request.WhichOneof("message") or "hello")
    return bytes(report.key.SerializeToString(deterministic=True))


def failure(cause: str, reason: str = "BROKEN") -> session_pb2.TrialFailure:
    """A failure of this cause, with a log tail."""
    message = session_pb2.TrialFailure(
        cause=search_pb2.AttemptCause.Value(f"ATTEMPT_CAUSE_{cause}"), log_tail="last words"
    )
    message.problem.reason, message.problem.message = reason, "it broke"
    return message
