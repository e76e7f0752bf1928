"""Where adapters meet the domain."""

from collections.abc import Callable

import grpc.aio

from allotment_api.search.v1 import search_pb2
from allotment_api.search.v1.search_pb2_grpc import add_SearchServiceServicer_to_server
from allotment_api.trainer.v1 import session_pb2
from allotment_api.trainer.v1.session_pb2_grpc import add_TrainerServiceServicer_to_server
from allotment_controller.adapters.changes import Announcements
from allotment_controller.adapters.consents import GrpcConsents
from allotment_controller.adapters.datasets import GrpcDatasets
from allotment_controller.adapters.experiences import SqlExperiences
from allotment_controller.adapters.exports import GrpcExports
from allotment_controller.adapters.families import load_grammar
from allotment_controller.adapters.leases import GrpcLeases
from allotment_controller.adapters.sampling import ThreadedSampling
from allotment_controller.adapters.store import SqlStore
from allotment_controller.config import ControllerConfig
from allotment_controller.domain.controller import Controller
from allotment_controller.domain.experience import Experiences
from allotment_controller.domain.keeper import KeeperTimes, LeaseKeeper
from allotment_controller.domain.seat import Seats
from allotment_controller.domain.surroundings import Surroundings
from allotment_controller.servicer import SearchServicer
from allotment_controller.session import SessionTimes, TrainerServicer
from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_core.rpc import Service
from allotment_search.halving import Halving

MIGRATIONS = "allotment_controller.adapters.migrations"
PROTOS = (search_pb2.DESCRIPTOR, session_pb2.DESCRIPTOR)
ChannelTo = Callable[[], grpc.aio.Channel]


async def build(
    config: ControllerConfig,
    clock: Clock,
    dataset: ChannelTo,
    allocator: ChannelTo | None = None,
    exporter: ChannelTo | None = None,
    *,
    database: Database | None = None,
) -> Service:
    """The service with its database open. Each function opens a channel to one service.

    Services for which none is given are where the dataset service is. `database`: one that is open
    already.
    """
    if database is None:
        database = await Database.open(config.database_url, migrations=MIGRATIONS, clock=clock)
    store = SqlStore(database)
    announcements = Announcements()
    grammar = load_grammar(config.families_dir)
    seats = Seats()
    to_allocator = (allocator or dataset)()
    keeper = LeaseKeeper(GrpcLeases(to_allocator), seats, clock, _keeper_times(config))
    experiences = Experiences(SqlExperiences(database), GrpcConsents(to_allocator), grammar)
    sampling = ThreadedSampling() if config.sampler == "tpe" else None
    around = Surroundings(
        store=store,
        datasets=GrpcDatasets(dataset()),
        exports=GrpcExports((exporter or dataset)()),
        experiences=experiences,
        keeper=keeper,
        seats=seats,
        changes=announcements,
        clock=clock,
        grammar=grammar,
        away_grace_s=config.away_grace_s,
        export_limit=config.export_limit,
        trial_limit_s=config.trial_limit_s,
        halving=Halving(
            grace=config.early_stopping_grace,
            least_saving_s=config.early_stopping_saving_s,
            fit_rung_count=config.early_stopping_fit_rungs,
        ),
        budget_start=config.budget_starts,
        sampling=sampling,
    )
    controller = Controller(around, store)
    search = SearchServicer(controller, store, announcements, grammar)

    async def stop() -> None:
        await controller.stop()
        if sampling is not None:
            sampling.close()

    times = SessionTimes(
        heartbeat_interval_s=config.heartbeat_interval_s, lease_ttl_s=config.lease_ttl_s
    )
    return Service(
        name="controller",
        servicers=[
            (add_SearchServiceServicer_to_server, search),
            (add_TrainerServiceServicer_to_server, TrainerServicer(controller, clock, times)),
        ],
        database=database,
        start=controller.start,
        stop=stop,
    )


def _keeper_times(config: ControllerConfig) -> KeeperTimes:
    return KeeperTimes(
        lease_ttl_s=config.lease_ttl_s,
        start_grace_s=config.start_grace_s,
        away_grace_s=config.away_grace_s,
    )
