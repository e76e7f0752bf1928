"""The real controller in a process of its own, with trainers that answer at once."""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2_grpc, dataset_pb2_grpc
from allotment_api.exporter.v1 import exporter_pb2_grpc
from allotment_api.search.v1 import search_pb2, search_pb2_grpc
from allotment_api.trainer.v1 import session_pb2, session_pb2_grpc
from allotment_core.auth.principal import Role
from allotment_core.rpc import Service
from allotment_core.rpc.client import channel
from allotment_testkit.pretend_trainer import FAMILIES, made_up_score
from allotment_testkit.rpc import Served, new_signer, serving
from allotment_testkit.search_system import (
    PretendAllocator,
    PretendBlobs,
    PretendDatasets,
    PretendExporter,
    PretendPools,
)
from allotment_testkit.search_world import create, spec

SHA256 = "1" * 64


class Trainers:
    """One stream for each lease; every assignment is answered with its result at once."""

    def __init__(self, address: str, served: Served) -> None:
        self._address = address
        self._served = served
        self._tasks: set[asyncio.Task[None]] = set()
        self.completed = 0
        """Results that the controller acknowledged: they are durable."""

    def start(self, lease: allocator_pb2.Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._work(lease.name, lease.epoch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, lease: str, epoch: int) -> None:
        token = self._served.token(Role.TRAINER, lease=lease, lease_epoch=epoch)
        outbox: asyncio.Queue[session_pb2.OpenSessionRequest] = asyncio.Queue()
        hello = session_pb2.Hello(
            lease=lease,
            lease_epoch=epoch,
            families=[
                session_pb2.OfferedFamily(family=f"families/{f}", available=True) for f in FAMILIES
            ],
            threads=1,
            memory_bytes=1 << 30,
        )
        outbox.put_nowait(session_pb2.OpenSessionRequest(hello=hello))
        running: list[session_pb2.RunningTrial] = []

        async def requests() -> AsyncIterator[session_pb2.OpenSessionRequest]:
            while True:
                try:
                    async with asyncio.timeout(1.0):
                        yield await outbox.get()
                except TimeoutError:
                    beat = session_pb2.Heartbeat(running=running)
                    yield session_pb2.OpenSessionRequest(heartbeat=beat)

        async with channel(self._address, token=token) as opened:
            stub = session_pb2_grpc.TrainerServiceStub(opened)
            async for response in stub.OpenSession(requests()):
                kind = response.WhichOneof("message")
                if kind == "assignment":
                    outbox.put_nowait(_result(response.assignment))
                elif kind == "acknowledgement" and response.acknowledgement.HasField("key"):
                    self.completed += 1


def _result(assignment: session_pb2.Assignment) -> session_pb2.OpenSessionRequest:
    score = made_up_score(assignment)
    result = session_pb2.TrialResult(
        key=session_pb2.ReportKey(
            trial=assignment.trial, trial_epoch=assignment.trial_epoch, sequence=1
        ),
        score=score,
        metrics={"log_loss": score},
        fit_s=0.01,
        graph_sha256=SHA256,
        reference_sha256=SHA256,
        predictions_sha256=SHA256,
        fold_count=5,
        validation_row_count=200,
    )
    return session_pb2.OpenSessionRequest(result=result)


@asynccontextmanager
async def _peers(slot_count: int, stack: AsyncExitStack) -> AsyncIterator[tuple[Served, Any]]:
    allocator = PretendAllocator(slot_count)
    peers = Service(
        name="peers",
        servicers=[
            (dataset_pb2_grpc.add_DatasetServiceServicer_to_server, PretendDatasets()),
            (blob_pb2_grpc.add_BlobServiceServicer_to_server, PretendBlobs()),
            (allocator_pb2_grpc.add_PoolServiceServicer_to_server, PretendPools(slot_count)),
            (allocator_pb2_grpc.add_LeaseServiceServicer_to_server, allocator),
            (exporter_pb2_grpc.add_ExportServiceServicer_to_server, PretendExporter()),
        ],
    )
    async with serving(peers, signer=new_signer()) as served:
        yield served, allocator


def _start_controller(
    folder: Path, port: int, database_url: str, sampler: str, peers: Served
) -> "subprocess.Popen[bytes]":
    (folder / "public.pem").write_bytes(peers.signer.public_key_pem)
    (folder / "token").write_text(peers.token(Role.ADMIN), encoding="utf-8")
    environment = {
        **os.environ,
        "ALLOTMENT_LOG_LEVEL": "ERROR",
        "ALLOTMENT_CONTROLLER_DATABASE_URL": database_url,
        "ALLOTMENT_CONTROLLER_SAMPLER": sampler,
        "ALLOTMENT_SERVE_ADDRESS": f"127.0.0.1:{port}",
        "ALLOTMENT_SERVE_PUBLIC_KEY_FILE": str(folder / "public.pem"),
        "ALLOTMENT_SERVE_TOKEN_FILE": str(folder / "token"),
        "ALLOTMENT_SERVE_DATASET_ADDRESS": peers.address,
        "ALLOTMENT_SERVE_ALLOCATOR_ADDRESS": peers.address,
        "ALLOTMENT_SERVE_EXPORTER_ADDRESS": peers.address,
    }
    profile = os.environ.get("BENCH_PROFILE")
    runner = ["-m", "cProfile", "-o", profile] if profile else []
    return subprocess.Popen(
        [sys.executable, *runner, "-m", "allotment_controller"], env=environment
    )


async def trials_per_s(
    folder: Path,
    port: int,
    database_url: str,
    *,
    sampler: str,
    clients: int,
    experiments: int,
    warm_s: float,
    window_s: float,
) -> tuple[float, float, Counter[str]]:
    """Durable trials per second, the controller's CPU milliseconds for each, their origins."""
    async with AsyncExitStack() as stack:
        served, allocator = await stack.enter_async_context(_peers(clients, stack))
        trainers = Trainers(f"127.0.0.1:{port}", served)
        allocator.on_grant = trainers.start
        process = _start_controller(folder, port, database_url, sampler, served)
        try:
            opened = await stack.enter_async_context(
                channel(f"127.0.0.1:{port}", token=served.token(), retry_s=30.0)
            )
            stub = search_pb2_grpc.SearchServiceStub(opened)
            parallel = clients // experiments
            for number in range(experiments):
                wanted = spec(trial_count=1_000_000, max_parallel_trials=parallel)
                await create(stub, wanted, f"e{number}")
            await asyncio.sleep(warm_s)
            before, started, used_s = trainers.completed, time.perf_counter(), _cpu_s(process.pid)
            await asyncio.sleep(window_s)
            done = trainers.completed - before
            rate = done / (time.perf_counter() - started)
            cpu_ms = 1e3 * (_cpu_s(process.pid) - used_s) / max(1, done)
            origins = await _origins(stub)
            await trainers.stop()
        finally:
            process.terminate()
            process.wait(20)
    return rate, cpu_ms, origins


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process, where the system tells."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _origins(stub: Any) -> Counter[str]:
    counted: Counter[str] = Counter()
    token = ""
    while True:
        request = search_pb2.ListTrialsRequest(
            parent="tenants/local/experiments/e0", page_size=1000, page_token=token
        )
        response = await stub.ListTrials(request)
        counted.update(t.origin for t in response.trials)
        token = response.next_page_token
        if not token:
            return counted
