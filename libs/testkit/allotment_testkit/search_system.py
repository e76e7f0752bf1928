"""What surrounds a controller: a dataset service, an allocator and an exporter that only pretend.

They are real gRPC servicers for a real server; nothing is learnt and nothing is exported.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from allotment_api.allocator.v1 import allocator_pb2
from allotment_api.common.v1 import problem_pb2, table_pb2
from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_api.exporter.v1 import exporter_pb2
from allotment_core.errors import FailedPrecondition, NotFound, Unimplemented

C = TypeVar("C")
LeaseListener = Callable[[allocator_pb2.Lease], None]


def _with_the_rest(service: ServiceDescriptor) -> Callable[[type[C]], type[C]]:
    """Adds the methods that a class leaves out, as UNIMPLEMENTED: a server wants all of them."""

    def fill(servicer: type[C]) -> type[C]:
        for method in service.methods:
            if not hasattr(servicer, method.name):
                setattr(servicer, method.name, _unimplemented(method))
        return servicer

    return fill


def _unimplemented(method: MethodDescriptor) -> Callable[..., Any]:
    async def refuse(self: object, request: Any, context: Any) -> Any:
        raise Unimplemented(f"{method.full_name} is not pretended")

    async def refuse_stream(self: object, request: Any, context: Any) -> AsyncIterator[Any]:
        raise Unimplemented(f"{method.full_name} is not pretended")
        yield

    return refuse_stream if method.server_streaming else refuse


@_with_the_rest(dataset_pb2.DESCRIPTOR.services_by_name["DatasetService"])
class PretendDatasets:
    """Every version is the same small table with a target "y"."""

    def __init__(self, row_count: int = 200) -> None:
        self.row_count = row_count
        self.classes = ("no", "yes")
        self.columns: tuple[str, ...] = ("age", "fare", "town", "y")
        self.task = table_pb2.TASK_TYPE_BINARY

    async def GetVersion(
        self, request: dataset_pb2.GetVersionRequest, context: Any
    ) -> dataset_pb2.GetVersionResponse:
        if "missing" in request.name:
            raise NotFound(f"there is no version {request.name}")
        name = request.name.replace("versions/latest", "versions/3")
        columns = [
            table_pb2.Column(
                name=column,
                type=table_pb2.COLUMN_TYPE_NUMERIC
                if column in ("age", "fare")
                else table_pb2.COLUMN_TYPE_CATEGORICAL,
                role=table_pb2.COLUMN_ROLE_FEATURE,
            )
            for column in self.columns
        ]
        table = table_pb2.TableSource(
            version=name, part_sha256=["0" * 64], row_count=self.row_count, columns=columns
        )
        version = dataset_pb2.DatasetVersion(name=name, table=table)
        return dataset_pb2.GetVersionResponse(version=version)

    async def InspectTarget(
        self, request: dataset_pb2.InspectTargetRequest, context: Any
    ) -> dataset_pb2.InspectTargetResponse:
        return dataset_pb2.InspectTargetResponse(
            task=self.task,
            labelled_row_count=self.row_count,
            classes=[dataset_pb2.ClassCount(label=c, count=100) for c in self.classes],
            warnings=[problem_pb2.Warning(reason="CLASS_IMBALANCE", message="few are yes")],
        )


@_with_the_rest(blob_pb2.DESCRIPTOR.services_by_name["BlobService"])
class PretendBlobs:
    """Remembers who holds what."""

    def __init__(self) -> None:
        self.held: dict[str, list[str]] = {}
        self.files: dict[str, bytes] = {}
        """What can be read, by sha256; every other blob is gone."""
        self.released: list[str] = []

    async def HoldBlobs(
        self, request: blob_pb2.HoldBlobsRequest, context: Any
    ) -> blob_pb2.HoldBlobsResponse:
        self.held[request.owner] = list(request.names)
        return blob_pb2.HoldBlobsResponse()

    async def ReadBlob(
        self, request: blob_pb2.ReadBlobRequest, context: Any
    ) -> AsyncIterator[blob_pb2.ReadBlobResponse]:
        content = self.files.get(request.name.rpartition("/")[2])
        if content is None:
            raise NotFound(f"there is no blob {request.name}")
        yield blob_pb2.ReadBlobResponse(data=content)

    async def GetBlob(
        self, request: blob_pb2.GetBlobRequest, context: Any
    ) -> blob_pb2.GetBlobResponse:
        return blob_pb2.GetBlobResponse(blob=blob_pb2.Blob(name=request.name, size_bytes=1_000))

    async def ReleaseBlobs(
        self, request: blob_pb2.ReleaseBlobsRequest, context: Any
    ) -> blob_pb2.ReleaseBlobsResponse:
        self.released.append(request.owner)
        return blob_pb2.ReleaseBlobsResponse(released_count=1)


@_with_the_rest(allocator_pb2.DESCRIPTOR.services_by_name["PoolService"])
class PretendPools:
    def __init__(self, slot_count: int) -> None:
        self.slot_count = slot_count

    async def ListPools(
        self, request: allocator_pb2.ListPoolsRequest, context: Any
    ) -> allocator_pb2.ListPoolsResponse:
        pools = [
            allocator_pb2.Pool(name="pools/local", slot_count=self.slot_count),
            allocator_pb2.Pool(name="pools/gpus", slot_count=64, resource="gpu"),
        ]
        return allocator_pb2.ListPoolsResponse(pools=pools)


@_with_the_rest(allocator_pb2.DESCRIPTOR.services_by_name["TenantService"])
class PretendTenants:
    """Every tenant is there but those in ``gone``; those in ``sharing`` share their experience."""

    def __init__(self) -> None:
        self.sharing: set[str] = set()
        self.gone: set[str] = set()
        self.hangs = False
        self.public_keys: list[str] = []
        self.pod_tokens: allocator_pb2.PodTokens | None = None
        self.unknown_key_ids: list[str] = []
        """What those who fetched keys had met."""

    async def FetchTokenKeys(
        self, request: allocator_pb2.FetchTokenKeysRequest, context: Any
    ) -> allocator_pb2.FetchTokenKeysResponse:
        self.unknown_key_ids.append(request.unknown_key_id)
        return allocator_pb2.FetchTokenKeysResponse(
            public_keys=self.public_keys, pod_tokens=self.pod_tokens
        )

    async def GetTenant(
        self, request: allocator_pb2.GetTenantRequest, context: Any
    ) -> allocator_pb2.GetTenantResponse:
        if self.hangs:
            await asyncio.Event().wait()
        if request.name in self.gone:
            raise NotFound(f"there is no tenant {request.name}")
        tenant = allocator_pb2.Tenant(
            name=request.name, shares_experience=request.name in self.sharing
        )
        return allocator_pb2.GetTenantResponse(tenant=tenant)


@_with_the_rest(allocator_pb2.DESCRIPTOR.services_by_name["LeaseService"])
class PretendAllocator:
    """Grants leases in the order of asking, up to its slots. ``on_grant`` starts a trainer."""

    def __init__(self, slot_count: int) -> None:
        self.slot_count = slot_count
        self.leases: dict[str, allocator_pb2.Lease] = {}
        self.renewed: list[str] = []
        self.on_grant: LeaseListener = lambda lease: None
        self.refuses = ""
        """Why nobody can be granted a lease ever; empty: they can."""
        self.pods: dict[str, tuple[str, int]] = {}
        """Leases and epochs by the uid of the pod that was made for them."""
        self.identified: list[str] = []
        self._numbers = itertools.count(1)
        self._watchers: set[asyncio.Queue[allocator_pb2.Lease]] = set()

    async def CreateLease(
        self, request: allocator_pb2.CreateLeaseRequest, context: Any
    ) -> allocator_pb2.CreateLeaseResponse:
        if self.refuses:
            raise FailedPrecondition(self.refuses, reason="LARGER_THAN_QUOTA")
        lease = allocator_pb2.Lease(
            name=f"{request.parent}/leases/l{next(self._numbers)}",
            state=allocator_pb2.LEASE_STATE_QUEUED,
            holder=request.holder,
            slot_count=1,
            wait=problem_pb2.Wait(reason="POOL_FULL", message="wait for a slot", position=1),
        )
        self.leases[lease.name] = lease
        self._tell(lease)
        self._grant()
        return allocator_pb2.CreateLeaseResponse(lease=lease)

    async def WatchLeases(
        self, request: allocator_pb2.WatchLeasesRequest, context: Any
    ) -> AsyncIterator[allocator_pb2.WatchLeasesResponse]:
        queue: asyncio.Queue[allocator_pb2.Lease] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            for lease in list(self.leases.values()):
                if lease.state <= allocator_pb2.LEASE_STATE_REVOKING:
                    yield allocator_pb2.WatchLeasesResponse(lease=lease)
            yield allocator_pb2.WatchLeasesResponse(snapshot_end=True)
            while True:
                yield allocator_pb2.WatchLeasesResponse(lease=await queue.get())
        finally:
            self._watchers.discard(queue)

    async def RenewLeases(
        self, request: allocator_pb2.RenewLeasesRequest, context: Any
    ) -> allocator_pb2.RenewLeasesResponse:
        answers = []
        for renewal in request.renewals:
            lease = self.leases.get(renewal.name)
            held = lease is not None and lease.epoch == renewal.epoch
            if held:
                self.renewed.append(renewal.name)
            answers.append(allocator_pb2.RenewedLease(renewed=held, lease=lease))
        return allocator_pb2.RenewLeasesResponse(leases=answers)

    async def ReleaseLease(
        self, request: allocator_pb2.ReleaseLeaseRequest, context: Any
    ) -> allocator_pb2.ReleaseLeaseResponse:
        lease = self.leases.get(request.name)
        if lease is None:
            raise NotFound(f"there is no lease {request.name}")
        self.end(request.name, allocator_pb2.LEASE_STATE_RELEASED)
        return allocator_pb2.ReleaseLeaseResponse(lease=lease)

    async def IdentifyTrainer(
        self, request: allocator_pb2.IdentifyTrainerRequest, context: Any
    ) -> allocator_pb2.IdentifyTrainerResponse:
        self.identified.append(request.pod_uid)
        name, epoch = self.pods.get(request.pod_uid, ("", 0))
        if not any((lease.name, lease.epoch) == (name, epoch) for lease in self.live):
            raise NotFound(f"no trainer runs in {request.pod_uid}")
        tenant = "/".join(name.split("/")[:2])
        return allocator_pb2.IdentifyTrainerResponse(tenant=tenant, lease=name, epoch=epoch)

    def open_slots(self, count: int) -> None:
        """There are so many slots from now on."""
        self.slot_count = count
        self._grant()

    def end(self, name: str, state: "allocator_pb2.LeaseState.ValueType") -> None:
        """The lease ends; the next one that waits is granted."""
        self.leases[name].state = state
        self._tell(self.leases[name])
        self._grant()

    def restart(self, name: str) -> None:
        """The lease's trainer died: it gets another one, with the next epoch."""
        lease = self.leases[name]
        lease.epoch += 1
        self._tell(lease)
        self.on_grant(lease)

    def revoke(self, name: str) -> None:
        self.leases[name].state = allocator_pb2.LEASE_STATE_REVOKING
        self._tell(self.leases[name])

    @property
    def live(self) -> list[allocator_pb2.Lease]:
        ended = (allocator_pb2.LEASE_STATE_RELEASED, allocator_pb2.LEASE_STATE_EXPIRED)
        return [lease for lease in self.leases.values() if lease.state not in ended]

    def _grant(self) -> None:
        used = (allocator_pb2.LEASE_STATE_HELD, allocator_pb2.LEASE_STATE_REVOKING)
        for lease in self.leases.values():
            held = sum(other.state in used for other in self.leases.values())
            if lease.state == allocator_pb2.LEASE_STATE_QUEUED and held < self.slot_count:
                lease.state = allocator_pb2.LEASE_STATE_HELD
                lease.epoch += 1
                lease.ClearField("wait")
                self._tell(lease)
                self.on_grant(lease)

    def _tell(self, lease: allocator_pb2.Lease) -> None:
        for queue in self._watchers:
            copy = allocator_pb2.Lease()
            copy.CopyFrom(lease)
            queue.put_nowait(copy)


@_with_the_rest(exporter_pb2.DESCRIPTOR.services_by_name["ExportService"])
class PretendExporter:
    """Every export succeeds after ``delay_s``, but for models of the trials in ``refused``."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.refused: set[str] = set()
        self.exports: dict[str, exporter_pb2.Export] = {}
        self.by_request: dict[str, str] = {}
        self.cancelled: list[str] = []

    async def CreateExport(
        self, request: exporter_pb2.CreateExportRequest, context: Any
    ) -> exporter_pb2.CreateExportResponse:
        known = self.by_request.get(request.request_id)
        if known is None:
            known = f"{request.parent}/exports/x{len(self.exports) + 1}"
            self.by_request[request.request_id] = known
            self.exports[known] = exporter_pb2.Export(
                name=known, state=exporter_pb2.EXPORT_STATE_RUNNING, source=request.source
            )
        return exporter_pb2.CreateExportResponse(export=self.exports[known])

    async def WatchExport(
        self, request: exporter_pb2.WatchExportRequest, context: Any
    ) -> AsyncIterator[exporter_pb2.WatchExportResponse]:
        export = self.exports[request.name]
        yield exporter_pb2.WatchExportResponse(export=export)
        await asyncio.sleep(self.delay_s)
        if self.refused & {trial.rpartition("/")[2] for trial in export.source.trials}:
            export.state = exporter_pb2.EXPORT_STATE_REFUSED
            export.problem.reason, export.problem.message = "NOT_PARITY", "row 1 differs"
        else:
            export.state = exporter_pb2.EXPORT_STATE_SUCCEEDED
            export.artefact_sha256, export.manifest_sha256 = "a" * 64, "b" * 64
        yield exporter_pb2.WatchExportResponse(export=export)

    async def CancelExport(
        self, request: exporter_pb2.CancelExportRequest, context: Any
    ) -> exporter_pb2.CancelExportResponse:
        self.cancelled.append(request.name)
        return exporter_pb2.CancelExportResponse(export=self.exports[request.name])

    async def DeleteExport(
        self, request: exporter_pb2.DeleteExportRequest, context: Any
    ) -> exporter_pb2.DeleteExportResponse:
        self.exports.pop(request.name, None)
        return exporter_pb2.DeleteExportResponse()
