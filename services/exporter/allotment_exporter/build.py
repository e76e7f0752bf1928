"""Where adapters meet the domain."""

import grpc.aio

from allotment_api.exporter.v1 import exporter_pb2
from allotment_api.exporter.v1.exporter_pb2_grpc import add_ExportServiceServicer_to_server
from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_core.rpc import Service
from allotment_exporter.adapters.child_processes import ChildProcessBuilder
from allotment_exporter.adapters.folders import FolderWorkspace
from allotment_exporter.adapters.grpc_blobs import GrpcBlobs
from allotment_exporter.adapters.sql_store import MIGRATIONS, SqlExportStore
from allotment_exporter.config import ExporterConfig
from allotment_exporter.domain.exporter import Exporter
from allotment_exporter.servicer import ExportServicer

PROTOS = (exporter_pb2.DESCRIPTOR,)


async def build(
    config: ExporterConfig,
    clock: Clock,
    dataset_channel: grpc.aio.Channel,
    *,
    database: Database | None = None,
) -> Service:
    """The service with its database open. `dataset_channel` may still be without a server.

    `database`: one that is open already.
    """
    if database is None:
        database = await Database.open(config.database_url, migrations=MIGRATIONS, clock=clock)
    exporter = Exporter(
        store=SqlExportStore(database),
        blobs=GrpcBlobs(dataset_channel, clock, config.dataset_patience_s),
        builder=ChildProcessBuilder(config.work_dir),
        workspace=FolderWorkspace(config.work_dir),
        clock=clock,
        limits=config.limits,
    )
    return Service(
        name="exporter",
        servicers=[(add_ExportServiceServicer_to_server, ExportServicer(exporter))],
        database=database,
        start=exporter.start,
        stop=exporter.stop,
    )
