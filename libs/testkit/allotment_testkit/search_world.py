"""A real controller between pretended neighbours; it can be killed and started again."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from allotment_api.allocator.v1 import allocator_pb2, allocator_pb2_grpc
from allotment_api.dataset.v1 import blob_pb2_grpc, dataset_pb2_grpc
from allotment_api.exporter.v1 import exporter_pb2_grpc
from allotment_api.search.v1 import search_pb2, search_pb2_grpc
from allotment_controller.build import build
from allotment_controller.config import ControllerConfig
from allotment_core.auth.principal import Role
from allotment_core.clock import Clock, SystemClock
from allotment_core.names import LeaseName
from allotment_core.rpc import Service
from allotment_core.rpc.client import channel
from allotment_core.rpc.fetched_keys import FetchedKeys
from allotment_testkit.pretend_trainer import Manners, PretendTrainer
from allotment_testkit.rpc import Served, new_signer, serving
from allotment_testkit.search_system import (
    PretendAllocator,
    PretendBlobs,
    PretendDatasets,
    PretendExporter,
    PretendPools,
    PretendTenants,
)

VERSION = "tenants/local/datasets/d/versions/latest"


class SearchWorld:
    """`async with SearchWorld(folder).open() as world:`, then `async with world.controller():`."""

    def __init__(self, folder: Path, *, slot_count: int = 1, **settings: Any) -> None:
        self.folder = folder
        self.settings = settings
        self.datasets = PretendDatasets()
        self.blobs = PretendBlobs()
        self.allocator = PretendAllocator(slot_count)
        self.exporter = PretendExporter()
        self.tenants = PretendTenants()
        self.manners = Manners()
        self.trainers: list[PretendTrainer] = []
        self.signer = new_signer()
        self.fetches_keys = False
        """The controller asks the allocator for the keys of tokens, as one on its own does."""
        self._pools = PretendPools(slot_count)
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: Served | None = None
        self.served: Served | None = None
        self.allocator.on_grant = self.start_trainer

    @asynccontextmanager
    async def open(self) -> AsyncIterator["SearchWorld"]:
        """With the neighbours served, and no controller yet."""
        peers = Service(
            name="peers",
            servicers=[
                (dataset_pb2_grpc.add_DatasetServiceServicer_to_server, self.datasets),
                (blob_pb2_grpc.add_BlobServiceServicer_to_server, self.blobs),
                (allocator_pb2_grpc.add_PoolServiceServicer_to_server, self._pools),
                (allocator_pb2_grpc.add_TenantServiceServicer_to_server, self.tenants),
                (allocator_pb2_grpc.add_LeaseServiceServicer_to_server, self.allocator),
                (exporter_pb2_grpc.add_ExportServiceServicer_to_server, self.exporter),
            ],
        )
        async with serving(peers, signer=self.signer) as served:
            self.peers = served
            try:
                yield self
            finally:
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[Any]:
        """A controller on the folder's database, and an editor's stub to it."""
        assert self.peers is not None
        settings = {
            "database_url": f"sqlite:///{self.folder}/controller.db",
            "heartbeat_interval_s": 0.3,
            "away_grace_s": 1.0,
            **self.settings,
        }
        config = ControllerConfig(**settings)
        token = self.peers.token(Role.ADMIN)
        opened = channel(self.peers.address, token=token)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(opened.close)
            service = await build(config, SystemClock(), lambda: opened)
            self.served = await stack.enter_async_context(
                serving(
                    service,
                    signer=self.signer,
                    grace_s=0.05,
                    verifier=self.keys(SystemClock()) if self.fetches_keys else None,
                )
            )
            try:
                yield search_pb2_grpc.SearchServiceStub(self.served.channel())
            finally:
                self.served = None

    def keys(self, clock: Clock) -> FetchedKeys:
        """A verifier that asks the pretended allocator."""
        assert self.peers is not None
        self.tenants.public_keys = [self.signer.public_key_pem.decode()]
        asking = channel(self.peers.address, token=self.peers.token(Role.ADMIN), retry_s=0.0)
        return FetchedKeys(asking, clock)

    def start_trainer(self, lease: allocator_pb2.Lease) -> None:
        trainer = PretendTrainer(
            lambda: self._trainer_channel(trainer_lease, trainer_epoch),
            lease.name,
            lease.epoch,
            self.manners,
        )
        trainer_lease, trainer_epoch = lease.name, lease.epoch
        self.trainers.append(trainer)
        task = asyncio.get_running_loop().create_task(self._work(trainer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, trainer: PretendTrainer) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await trainer.run()

    def _trainer_channel(self, lease: str, epoch: int) -> grpc.aio.Channel:
        assert self.peers is not None
        tenant = str(LeaseName.parse(lease).tenant)
        token = self.peers.token(Role.TRAINER, tenant, lease=lease, lease_epoch=epoch)
        address = self.served.address if self.served is not None else "127.0.0.1:1"
        return channel(address, token=token, retry_s=0.0)


def spec(
    *, wall_time_s: float | None = None, trial_count: int = 0, **fields: Any
) -> search_pb2.ExperimentSpec:
    """A specification on the pretended data set."""
    message = search_pb2.ExperimentSpec(
        **{"dataset_version": VERSION, "target": "y", "seed": 7, **fields}
    )
    message.budget.trial_count = trial_count
    if wall_time_s is not None:
        message.budget.wall_time.FromNanoseconds(round(wall_time_s * 1e9))
    return message


async def create(
    stub: Any, wanted: search_pb2.ExperimentSpec, experiment_id: str = "e"
) -> search_pb2.Experiment:
    """Creates an experiment in tenants/local."""
    request = search_pb2.CreateExperimentRequest(
        request_id=uuid.uuid4().hex,
        parent="tenants/local",
        experiment_id=experiment_id,
        spec=wanted,
    )
    response = await stub.CreateExperiment(request)
    experiment: search_pb2.Experiment = response.experiment
    return experiment


async def ended(stub: Any, name: str, *, within_s: float = 30.0) -> search_pb2.Experiment:
    """Watches an experiment to its end."""
    last = search_pb2.Experiment()
    async with asyncio.timeout(within_s):
        async for response in stub.WatchExperiment(search_pb2.WatchExperimentRequest(name=name)):
            if response.HasField("experiment"):
                last = response.experiment
    return last


async def all_trials(stub: Any, name: str) -> list[search_pb2.Trial]:
    """Every trial of an experiment, by number."""
    request = search_pb2.ListTrialsRequest(parent=name, page_size=1000)
    return list((await stub.ListTrials(request)).trials)
