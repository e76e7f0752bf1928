"""Where adapters meet the domain."""

import asyncio
import logging
from datetime import timedelta

from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_api.dataset.v1.blob_pb2_grpc import add_BlobServiceServicer_to_server
from allotment_api.dataset.v1.dataset_pb2_grpc import add_DatasetServiceServicer_to_server
from allotment_core.clock import Clock
from allotment_core.db import Database
from allotment_core.errors import AllotmentError
from allotment_core.rpc import Service
from allotment_dataset.adapters.byte_stores import OpenStore, opened_store
from allotment_dataset.adapters.parse_children import ChildLimits, ParseChildren
from allotment_dataset.adapters.spool import FolderSpool
from allotment_dataset.adapters.sql_store import SqlStore
from allotment_dataset.adapters.upload_files import FolderUploadFiles
from allotment_dataset.blob_servicer import BlobServicer
from allotment_dataset.config import DatasetConfig
from allotment_dataset.domain.blobs import Blobs
from allotment_dataset.domain.catalogue import Catalogue
from allotment_dataset.domain.changes import Changes
from allotment_dataset.domain.import_runner import ImportRunner
from allotment_dataset.domain.importing import Imports
from allotment_dataset.domain.uploading import Uploads
from allotment_dataset.servicer import DatasetServicer

log = logging.getLogger(__name__)

MIGRATIONS = "allotment_dataset.adapters.migrations"
PROTOS = (dataset_pb2.DESCRIPTOR, blob_pb2.DESCRIPTOR)

UNFINISHED_FOR = timedelta(hours=24)
"""Objects that are still being sent after this time belong to a process that is gone."""
LOOK_FOR_UNFINISHED_EVERY = timedelta(hours=1)


async def build(
    config: DatasetConfig, clock: Clock, *, database: Database | None = None
) -> Service:
    """The service with its database open. `database`: one that is open already."""
    opened = await opened_store(config)
    stored = opened.blobs
    spool = FolderSpool(config.work_dir / "spool", stored)
    await spool.empty()
    if database is None:
        database = await Database.open(config.database_url, migrations=MIGRATIONS, clock=clock)
    store = SqlStore(database)
    changes = Changes()
    files = FolderUploadFiles(config.work_dir / "uploads")
    uploads = Uploads(store, files, clock, limit_bytes=config.max_upload_bytes)
    blobs = Blobs(
        store,
        stored,
        spool,
        clock,
        grace=timedelta(seconds=config.collect_grace_s),
        limit_bytes=config.max_blob_bytes,
    )
    children = ParseChildren(
        spool,
        config.work_dir / "parse",
        ChildLimits(
            memory_bytes=config.parse_memory_bytes,
            cpu_s=config.parse_cpu_s,
            file_bytes=config.parse_file_bytes,
            wall_s=config.parse_wall_s,
        ),
        warm=config.warm_children,
        concurrency=config.import_concurrency + 1,
    )
    catalogue = Catalogue(store, spool, children, clock)
    runner = ImportRunner(
        store,
        files,
        blobs,
        spool,
        children,
        changes,
        clock,
        concurrency=config.import_concurrency,
    )
    background = _Background(
        uploads, blobs, opened, children, catalogue, runner, clock, every_s=config.collect_every_s
    )
    datasets = DatasetServicer(uploads, Imports(store, changes, clock), catalogue)
    return Service(
        name="dataset",
        servicers=[
            (add_DatasetServiceServicer_to_server, datasets),
            (add_BlobServiceServicer_to_server, BlobServicer(blobs)),
        ],
        database=database,
        start=background.start,
        stop=background.stop,
    )


class _Background:
    """What runs beside the calls: imports, waiting children, sweeping."""

    def __init__(
        self,
        uploads: Uploads,
        blobs: Blobs,
        opened: OpenStore,
        children: ParseChildren,
        catalogue: Catalogue,
        runner: ImportRunner,
        clock: Clock,
        *,
        every_s: float,
    ) -> None:
        self._uploads = uploads
        self._blobs = blobs
        self._opened = opened
        self._clock = clock
        self._looked_time = clock.now()
        self._children = children
        self._catalogue = catalogue
        self._runner = runner
        self._every_s = every_s
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._uploads.drop_orphans()
        await self._runner.start()
        self._children.start()
        self._sweeper = asyncio.create_task(self._sweep(), name="dataset sweeper")

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._runner.stop()
        await self._catalogue.stop()
        await self._children.stop()
        await self._uploads.stop()
        await self._opened.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._uploads.sweep()
                await self._drop_unfinished()
                while await self._blobs.collect():
                    pass
            except AllotmentError as e:
                log.warning("sweeping failed", extra={"reason": e.reason})
            except Exception:
                log.exception("sweeping broke")

    async def _drop_unfinished(self) -> None:
        now = self._clock.now()
        if now - self._looked_time < LOOK_FOR_UNFINISHED_EVERY:
            return
        self._looked_time = now
        count = await self._opened.drop_unfinished(now - UNFINISHED_FOR)
        if count:
            log.info("unfinished objects dropped", extra={"count": count})
