"""A dataset service on 127.0.0.1 and what a client of it does, for tests."""

import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_api.dataset.v1.blob_pb2_grpc import BlobServiceStub
from allotment_api.dataset.v1.dataset_pb2_grpc import DatasetServiceStub
from allotment_core.auth.tokens import TokenSigner
from allotment_core.clock import Clock, SystemClock
from allotment_dataset.build import build
from allotment_dataset.config import DatasetConfig
from allotment_testkit.rpc import Served, serving

TENANT = "tenants/local"


def config_of(folder: Path, **changes: Any) -> DatasetConfig:
    config = DatasetConfig(
        database_url=f"sqlite:///{folder}/dataset.db",
        blob_dir=folder / "blobs",
        work_dir=folder / "work",
        warm_children=0,
    )
    return replace(config, **changes)


def rid() -> str:
    return uuid.uuid4().hex


class DatasetClient:
    """The calls of one tenant's editor."""

    folder: Path
    """The service's folder: blobs/, work/, dataset.db."""

    def __init__(self, served: Served, tenant: str = TENANT, token: str | None = None) -> None:
        channel = served.channel(token or served.token(tenant=tenant))
        self.tenant = tenant
        self.served = served
        self.datasets: Any = DatasetServiceStub(channel)
        self.blobs: Any = BlobServiceStub(channel)

    async def upload(self, content: bytes, chunk_bytes: int = 1 << 20) -> str:
        """The name of a complete upload."""
        created = await self.datasets.CreateUpload(
            dataset_pb2.CreateUploadRequest(
                request_id=rid(),
                parent=self.tenant,
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        name: str = created.upload.name
        messages = [
            dataset_pb2.WriteUploadRequest(
                name=name,
                offset=at,
                data=content[at : at + chunk_bytes],
                last=at + chunk_bytes >= len(content),
            )
            for at in range(0, max(1, len(content)), chunk_bytes)
        ]
        answer = await self.datasets.WriteUpload(iter_async(messages), timeout=30)
        assert answer.upload.complete
        return name

    async def start_import(
        self, content: bytes, dataset_id: str = "", **fields: Any
    ) -> dataset_pb2.Import:
        upload = await self.upload(content)
        answer = await self.datasets.CreateImport(
            dataset_pb2.CreateImportRequest(
                request_id=rid(),
                parent=self.tenant,
                upload=upload,
                dataset_id=dataset_id,
                **fields,
            )
        )
        operation: dataset_pb2.Import = answer.operation
        return operation

    async def ended(self, name: str) -> dataset_pb2.Import:
        """The import once it has ended."""
        last: dataset_pb2.Import | None = None
        request = dataset_pb2.WatchImportRequest(name=name)
        async for answer in self.datasets.WatchImport(request, timeout=50):
            last = answer.operation
        assert last is not None
        return last

    async def imported(self, content: bytes, dataset_id: str = "", **fields: Any) -> Any:
        """The version that the content makes."""
        operation = await self.start_import(content, dataset_id, **fields)
        done = await self.ended(operation.name)
        assert done.state == dataset_pb2.IMPORT_STATE_SUCCEEDED, done.problem
        answer = await self.datasets.GetVersion(dataset_pb2.GetVersionRequest(name=done.version))
        return answer.version

    async def put_blob(self, content: bytes, owner: str, parent: str | None = None) -> Any:
        messages = [
            blob_pb2.PutBlobRequest(parent=parent or self.tenant, owner=owner),
            *(
                blob_pb2.PutBlobRequest(data=content[at : at + (1 << 20)])
                for at in range(0, len(content), 1 << 20)
            ),
        ]
        answer = await self.blobs.PutBlob(iter_async(messages), timeout=30)
        return answer.blob

    async def read_blob(self, name: str, offset: int = 0) -> bytes:
        request = blob_pb2.ReadBlobRequest(name=name, offset=offset)
        return b"".join([a.data async for a in self.blobs.ReadBlob(request, timeout=30)])

    async def inspect(self, version: str, target: str, task: Any = 0) -> Any:
        return await self.datasets.InspectTarget(
            dataset_pb2.InspectTargetRequest(name=version, target=target, task=task), timeout=30
        )


async def iter_async(messages: Sequence[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


@asynccontextmanager
async def dataset_service(
    folder: Path,
    *,
    clock: Clock | None = None,
    signer: TokenSigner | None = None,
    **changes: Any,
) -> AsyncIterator[DatasetClient]:
    clock = clock or SystemClock()
    service = await build(config_of(folder, **changes), clock)
    async with serving(service, clock=clock, signer=signer) as served:
        client = DatasetClient(served)
        client.folder = folder
        yield client
