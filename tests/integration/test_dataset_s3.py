"""The dataset service with its bytes in a bucket: the way of a file from upload to collection."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from grpc.aio import AioRpcError

from allotment_api.dataset.v1 import blob_pb2, dataset_pb2
from allotment_core.clock import SystemClock
from allotment_core.errors import AllotmentError, InvalidArgument, Unavailable
from allotment_core.rpc.client import from_rpc_error
from allotment_dataset.adapters.byte_stores import opened_store
from allotment_dataset.build import build
from allotment_testkit.dataset_service import (
    TENANT,
    DatasetClient,
    config_of,
    dataset_service,
    rid,
)
from allotment_testkit.s3 import S3Server
from allotment_testkit.s3_faults import Fault, FaultyS3, faulty_s3

TRIAL = f"{TENANT}/experiments/e1/trials/t1"
BIG = bytes(range(256)) * (48 << 10)
"""12 MiB: two parts."""


@pytest.fixture
def front(s3_server: S3Server) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as opened:
        yield opened


def settings(server: S3Server, bucket: str) -> dict[str, Any]:
    return {
        "blob_dir": None,
        "blobs": f"s3://{bucket}/data",
        "s3_endpoint": server.endpoint,
        "s3_access_key": server.access_key,
        "s3_secret_key": server.secret_key,
    }


@pytest.fixture
async def client(front: FaultyS3, s3_bucket: str, tmp_path: Path) -> AsyncIterator[DatasetClient]:
    given = settings(front.server, s3_bucket)
    async with dataset_service(tmp_path, s3_answer_s=5.0, **given) as opened:
        yield opened


@pytest.fixture
async def collecting_client(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> AsyncIterator[DatasetClient]:
    given = settings(s3_server, s3_bucket)
    async with dataset_service(
        tmp_path, collect_grace_s=1.0, collect_every_s=0.05, **given
    ) as opened:
        yield opened


@pytest.fixture
def stored(s3_server: S3Server, s3_bucket: str) -> Callable[[], set[str]]:
    """The sha256 of all objects there are."""
    client = s3_server.client()

    def look() -> set[str]:
        found = client.list_objects(s3_bucket, recursive=True)
        names = [(each.object_name or "").rpartition("/") for each in found]
        assert {folder for folder, _, _ in names} <= {"data/blobs/sha256"}
        return {sha256 for _, _, sha256 in names}

    return look


async def refused(call: Any) -> AllotmentError:
    with pytest.raises(AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_file_becomes_rows_grows_and_goes(
    collecting_client: DatasetClient, stored: Callable[[], set[str]], tmp_path: Path
) -> None:
    client = collecting_client
    first = await client.imported(b"a,b\n1,x\n2,y\n", "d")
    second = await client.imported(b"a,b\n3,z\n", "d", append=True)
    assert second.table.row_count == 3
    parts = list(second.table.part_sha256)
    assert stored() == set(parts)
    assert parts[:1] == list(first.table.part_sha256)
    rows = []
    for sha256 in parts:
        content = await client.read_blob(f"{TENANT}/blobs/{sha256}")
        assert hashlib.sha256(content).hexdigest() == sha256
        rows += pq.read_table(io.BytesIO(content)).to_pylist()
    assert rows == [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}, {"a": 3.0, "b": "z"}]
    await client.datasets.DeleteDataset(
        dataset_pb2.DeleteDatasetRequest(request_id=rid(), name=f"{TENANT}/datasets/d")
    )
    for _ in range(600):
        if not stored():
            break
        await asyncio.sleep(0.05)
    assert stored() == set()
    assert not (tmp_path / "blobs").exists()
    assert list((tmp_path / "work" / "sending").iterdir()) == []


async def test_blobs_come_back_from_any_offset(client: DatasetClient) -> None:
    blob = await client.put_blob(BIG, TRIAL)
    for offset in (0, 1, 9 << 20, len(BIG)):
        assert await client.read_blob(blob.name, offset) == BIG[offset:]


async def test_a_broken_connection_is_not_noticed(client: DatasetClient, front: FaultyS3) -> None:
    front.add(Fault(method="PUT", query="partNumber=2", cut_request_at=1 << 20))
    blob = await client.put_blob(BIG, TRIAL)
    front.add(Fault(method="GET", cut_answer_at=7 << 20))
    assert await client.read_blob(blob.name) == BIG


async def test_damage_and_loss_are_told(
    client: DatasetClient, s3_server: S3Server, s3_bucket: str
) -> None:
    blob = await client.put_blob(BIG, TRIAL)
    at = f"data/blobs/sha256/{blob.name.rpartition('/')[2]}"
    damaged = b"z" + BIG[1:]
    s3_server.client().put_object(s3_bucket, at, io.BytesIO(damaged), len(damaged))
    assert (await refused(client.read_blob(blob.name))).reason == "BLOB_DAMAGED"
    s3_server.client().remove_object(s3_bucket, at)
    assert (await refused(client.read_blob(blob.name))).reason == "BLOB_LOST"


async def test_a_full_store_leaves_nothing_held(client: DatasetClient, front: FaultyS3) -> None:
    front.add(Fault(method="PUT", status=507, code="XMinioStorageFull"))
    error = await refused(client.put_blob(b"content", TRIAL))
    assert error.reason == "DISK_FULL"
    name = f"{TENANT}/blobs/{hashlib.sha256(b'content').hexdigest()}"
    request = blob_pb2.GetBlobRequest(name=name)
    assert (await refused(client.blobs.GetBlob(request))).reason == "NOT_FOUND"
    assert (await client.put_blob(b"content", TRIAL)).name == name


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"blobs": ""}, "ALLOTMENT_DATASET_BLOB_DIR"),
        ({"blobs": "gs://bucket"}, "s3://bucket"),
        ({"s3_endpoint": "nowhere"}, "endpoint"),
        ({"s3_secret_key": ""}, "only one of the two"),
        ({"s3_create_bucket": False, "blobs": "s3://not-there"}, "does not exist"),
    ],
)
async def test_settings_that_can_not_be_are_refused_at_the_start(
    s3_server: S3Server, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    config = config_of(tmp_path, **{**settings(s3_server, "some-bucket"), **changes})
    with pytest.raises(InvalidArgument, match=text):
        await build(config, SystemClock())


async def test_a_start_waits_for_a_server_that_is_not_there_yet(
    front: FaultyS3, s3_bucket: str, tmp_path: Path
) -> None:
    # One more than a request is repeated by itself.
    for _ in range(6):
        front.add(Fault(method="GET", status=503, code="SlowDown"))
    config = config_of(tmp_path, **settings(front.server, s3_bucket))
    opened = await opened_store(config)
    await opened.close()


async def test_a_start_ends_when_the_server_stays_away(
    front: FaultyS3, s3_bucket: str, tmp_path: Path
) -> None:
    for _ in range(20):
        front.add(Fault(method="GET", status=503, code="SlowDown"))
    config = config_of(tmp_path, **settings(front.server, s3_bucket))
    with pytest.raises(Unavailable) as caught:
        await opened_store(config, open_patience_s=0.0)
    assert caught.value.reason == "STORE_UNAVAILABLE"


async def test_a_start_does_not_wait_where_keys_are_wrong(
    front: FaultyS3, s3_bucket: str, tmp_path: Path
) -> None:
    front.add(Fault(method="GET", status=403, code="InvalidAccessKeyId"))
    with pytest.raises(Unavailable) as caught:
        await opened_store(config_of(tmp_path, **settings(front.server, s3_bucket)))
    assert caught.value.reason == "STORE_DENIED"
