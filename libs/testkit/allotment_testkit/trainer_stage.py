"""A controller that only does what a test says, and a trainer host as a process beside it."""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from allotment_api.common.v1 import table_pb2
from allotment_api.search.v1 import search_pb2
from allotment_api.trainer.v1 import session_pb2 as pb
from allotment_api.trainer.v1 import session_pb2_grpc
from allotment_core.auth.principal import Principal, Role
from allotment_core.rpc import Service, current_principal
from allotment_testkit.blob_service import MemoryBlobService
from allotment_testkit.rpc import Served, serving

TENANT = "tenants/local"
LEASE = f"{TENANT}/leases/l1"
TRIALS = f"{TENANT}/experiments/e1/trials"
Key = tuple[str, int, int]


class StagedController:
    """Serves TrainerService: welcomes everybody, acknowledges, keeps what it was told."""

    def __init__(self, *, heartbeat_s: float = 0.2, lease_ttl_s: float = 60.0) -> None:
        self.heartbeat_s = heartbeat_s
        self.lease_ttl_s = lease_ttl_s
        self.acknowledges = True
        self.answers_heartbeats = True
        self.refusal: Exception | None = None
        """What every session ends with at once."""
        self.principals: list[Principal] = []
        """Who opened each session."""
        self.hellos: list[pb.Hello] = []
        self.heartbeats: list[pb.Heartbeat] = []
        self.reports: list[pb.OpenSessionRequest] = []
        """Each report once, in the order of its first arrival."""
        self.deliveries: Counter[Key] = Counter()
        self.changed = asyncio.Condition()
        self._lines: list[asyncio.Queue[pb.OpenSessionResponse | None]] = []

    def service(self) -> Service:
        add = session_pb2_grpc.add_TrainerServiceServicer_to_server
        return Service(name="controller", servicers=[(add, self)])

    async def OpenSession(
        self, requests: AsyncIterator[pb.OpenSessionRequest], _context: Any
    ) -> AsyncIterator[pb.OpenSessionResponse]:
        line: asyncio.Queue[pb.OpenSessionResponse | None] = asyncio.Queue()
        first = await anext(requests)
        if self.refusal is not None:
            raise self.refusal
        self.principals.append(current_principal())
        async with self.changed:
            self._hear(first, line)
            self.changed.notify_all()
        listener = asyncio.create_task(self._listen(requests, line))
        try:
            while (response := await line.get()) is not None:
                yield response
        finally:
            listener.cancel()
            if line in self._lines:
                self._lines.remove(line)

    async def _listen(
        self,
        requests: AsyncIterator[pb.OpenSessionRequest],
        line: "asyncio.Queue[pb.OpenSessionResponse | None]",
    ) -> None:
        async for request in requests:
            async with self.changed:
                self._hear(request, line)
                self.changed.notify_all()
        line.put_nowait(None)

    def _hear(
        self,
        request: pb.OpenSessionRequest,
        line: "asyncio.Queue[pb.OpenSessionResponse | None]",
    ) -> None:
        what = request.WhichOneof("message")
        if what == "hello":
            self.hellos.append(request.hello)
            self._lines.append(line)
            welcome = pb.Welcome()
            welcome.heartbeat_interval.FromNanoseconds(round(self.heartbeat_s * 1e9))
            welcome.lease_ttl.FromNanoseconds(round(self.lease_ttl_s * 1e9))
            line.put_nowait(pb.OpenSessionResponse(welcome=welcome))
            return
        if what == "heartbeat":
            self.heartbeats.append(request.heartbeat)
            if self.answers_heartbeats:
                line.put_nowait(pb.OpenSessionResponse(acknowledgement=pb.Acknowledgement()))
            return
        key = getattr(request, str(what)).key
        named = (key.trial, key.trial_epoch, key.sequence)
        self.deliveries[named] += 1
        if self.deliveries[named] == 1:
            self.reports.append(request)
        if self.acknowledges:
            line.put_nowait(pb.OpenSessionResponse(acknowledgement=pb.Acknowledgement(key=key)))

    # What a test says

    def say(self, **message: Message) -> None:
        """Sends a message to the trainer that is connected."""
        self._lines[-1].put_nowait(pb.OpenSessionResponse(**message))  # type: ignore[arg-type]

    def revoke(self, reason: str = "RELEASED", grace_s: float = 2.0) -> None:
        revoke = pb.Revoke(reason=reason)
        revoke.grace.FromNanoseconds(round(grace_s * 1e9))
        self.say(revoke=revoke)

    # What a test waits for

    async def until(self, condition: Any, within_s: float = 20.0) -> None:
        """Raises: TimeoutError when the condition does not come to hold."""
        async with asyncio.timeout(within_s), self.changed:
            await self.changed.wait_for(condition)

    async def connected(self, times: int = 1) -> None:
        await self.until(lambda: len(self.hellos) >= times and self._lines)

    async def result_of(self, trial: str, within_s: float = 20.0) -> pb.TrialResult:
        end = await self._end_of(trial, within_s)
        assert isinstance(end, pb.TrialResult), end
        return end

    async def failure_of(self, trial: str) -> pb.TrialFailure:
        end = await self._end_of(trial)
        assert isinstance(end, pb.TrialFailure), end
        return end

    async def _end_of(self, trial: str, within_s: float = 20.0) -> pb.TrialResult | pb.TrialFailure:
        await self.until(lambda: self._ends(trial), within_s)
        return self._ends(trial)[0]

    async def told(self, what: str, trial: str) -> None:
        """Until a "started" or "progress" of the trial has come."""

        def has_told() -> bool:
            said = [getattr(r, what) for r in self.reports if r.WhichOneof("message") == what]
            return any(report.key.trial == trial for report in said)

        await self.until(has_told)

    def _ends(self, trial: str) -> list[pb.TrialResult | pb.TrialFailure]:
        ends = [
            getattr(r, str(r.WhichOneof("message")))
            for r in self.reports
            if r.WhichOneof("message") in ("result", "failure")
        ]
        return [end for end in ends if end.key.trial == trial]


class HostProcess:
    """A trainer host that is told what to do line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._answers: list[tuple[str, dict[str, Any]]] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def order(self, what: str, **values: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({what: values}).encode() + b"\n")

    async def answer(self, what: str, within_s: float = 20.0) -> dict[str, Any]:
        """The next answer of this kind; others before it are kept."""
        for index, (name, values) in enumerate(self._answers):
            if name == what:
                del self._answers[index]
                return values
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            while line := await self.process.stdout.readline():
                [(name, values)] = json.loads(line).items()
                if name == what:
                    return dict(values)
                self._answers.append((name, values))
        raise EOFError(f"the host ended without saying {what}")


class Stage:
    """Controller, blobs and host together."""

    def __init__(
        self, served: Served, controller: StagedController, blobs: MemoryBlobService, folder: Path
    ) -> None:
        self.served = served
        self.controller = controller
        self.blobs = blobs
        self.folder = folder

    def lease(self, name: str = LEASE, epoch: int = 1, **changes: Any) -> dict[str, Any]:
        """The values of a lease in an order."""
        tenant = "/".join(name.split("/")[:2])
        token = self.served.token(Role.TRAINER, tenant, lease=name, lease_epoch=epoch)
        lease = {
            "server": self.served.address,
            "token": token,
            "lease": name,
            "epoch": epoch,
            "threads": 1,
            "memory_bytes": 512 << 20,
        }
        return {**lease, **changes}

    def start(self, trainer_id: str = "t1", **changes: Any) -> dict[str, Any]:
        """The values of an order to start a trainer."""
        return {
            "id": trainer_id,
            "tenant": TENANT,
            "cache_dir": str(self.folder / "cache"),
            "work_dir": str(self.folder / "work" / trainer_id),
            **self.lease(),
            **changes,
        }

    @asynccontextmanager
    async def host(self, *command: str, **environment: str) -> AsyncIterator[HostProcess]:
        """A host that is ready; killed at the end if it is still there."""
        process = await asyncio.create_subprocess_exec(
            *(command or (sys.executable, "-m", "allotment_trainer.host")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
        )
        host = HostProcess(process)
        try:
            await host.answer("ready", 60.0)
            yield host
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def staged(folder: Path, **manners: Any) -> AsyncIterator[Stage]:
    """A served controller and blob store."""
    controller, blobs = StagedController(**manners), MemoryBlobService()
    async with serving(controller.service(), blobs.service(), grace_s=0.2) as served:
        yield Stage(served, controller, blobs, folder)


def assignment(
    trial: str, choices: Sequence[tuple[str, str | float]] = (), *, epoch: int = 1, **fields: int
) -> pb.Assignment:
    """A trial that reads no data, for hosts with tricks."""
    derivation = [
        search_pb2.Choice(symbol=s, production=v)
        if isinstance(v, str)
        else search_pb2.Choice(symbol=s, number=v)
        for s, v in choices
    ]
    values: dict[str, Any] = {
        "trial": f"{TRIALS}/{trial}",
        "trial_epoch": epoch,
        "family": "families/constant",
        "derivation": derivation,
        "task": table_pb2.TASK_TYPE_REGRESSION,
        "metric": table_pb2.METRIC_RMSE,
        "split": pb.Split(method=pb.Split.METHOD_FOLDS, part_count=2),
        "threads": 1,
        "memory_bytes": 256 << 20,
    }
    return pb.Assignment(**{**values, **fields})
