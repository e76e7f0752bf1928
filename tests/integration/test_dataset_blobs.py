"""Blobs through gRPC: holders, tenants, collection."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError

from allotment_api.dataset.v1 import blob_pb2 as pb
from allotment_core.clock import SystemClock
from allotment_core.errors import AllotmentError
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.dataset_service import (
    TENANT,
    DatasetClient,
    dataset_service,
    iter_async,
    rid,
)

EXPERIMENT = f"{TENANT}/experiments/e1"
TRIAL = f"{EXPERIMENT}/trials/t1"
GRACE_S = 1.2
BIG = bytes(range(256)) * 12_000


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[DatasetClient]:
    async with dataset_service(tmp_path, collect_grace_s=GRACE_S, collect_every_s=0.05) as opened:
        yield opened


async def refused(call: Any) -> AllotmentError:
    with pytest.raises(AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def release(client: DatasetClient, owner: str) -> int:
    answer = await client.blobs.ReleaseBlobs(pb.ReleaseBlobsRequest(request_id=rid(), owner=owner))
    return int(answer.released_count)


async def hold(client: DatasetClient, owner: str, *names: str) -> None:
    await client.blobs.HoldBlobs(pb.HoldBlobsRequest(request_id=rid(), owner=owner, names=names))


def stored(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs/sha256").glob("*/*")}


async def until(condition: Any) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not happen")


async def test_bytes_come_back_from_any_offset(client: DatasetClient) -> None:
    blob = await client.put_blob(BIG, TRIAL)
    assert blob.name == f"{TENANT}/blobs/{hashlib.sha256(BIG).hexdigest()}"
    assert blob.size_bytes == len(BIG)
    for offset in (0, 1, 1 << 20, len(BIG)):
        assert await client.read_blob(blob.name, offset) == BIG[offset:]
    assert (await refused(client.read_blob(blob.name, len(BIG) + 1))).reason == "OFFSET_TOO_FAR"
    answer = await client.blobs.GetBlob(pb.GetBlobRequest(name=blob.name))
    assert answer.blob == blob


async def test_announced_digests_are_compared(client: DatasetClient, tmp_path: Path) -> None:
    request = pb.PutBlobRequest(parent=TENANT, owner=TRIAL, sha256="0" * 64, data=b"x")
    error = await refused(client.blobs.PutBlob(iter_async([request]), timeout=20))
    assert error.reason == "CHECKSUM_MISMATCH"
    assert list((tmp_path / "work/spool").iterdir()) == []


async def test_a_blob_lives_as_long_as_anybody_holds_it(
    client: DatasetClient, tmp_path: Path
) -> None:
    blob = await client.put_blob(b"model", TRIAL)
    model = f"{EXPERIMENT}/models/m1"
    await hold(client, model, blob.name)
    assert await release(client, TRIAL) == 1
    await asyncio.sleep(1.5 * GRACE_S)
    assert await client.read_blob(blob.name) == b"model"
    assert await release(client, EXPERIMENT) == 1
    assert (await refused(client.read_blob(blob.name))).reason == "NOT_FOUND"
    await until(lambda: not stored(tmp_path))
    assert (await refused(hold(client, model, blob.name))).reason == "NOT_FOUND"


async def test_release_takes_what_is_below_and_no_namesakes(client: DatasetClient) -> None:
    blob = await client.put_blob(b"x", TRIAL)
    await hold(client, f"{TENANT}/experiments/e1-b", blob.name)
    await hold(client, f"{TENANT}/experiments/e10/trials/1", blob.name)
    assert await release(client, EXPERIMENT) == 1
    assert await client.read_blob(blob.name) == b"x"


async def test_versions_keep_their_parts_from_everybody(client: DatasetClient) -> None:
    version = await client.imported(b"a,b\n1,x\n2,y\n", "d")
    error = await refused(release(client, version.name))
    assert error.reason == "INVALID_OWNER"
    await asyncio.sleep(1.5 * GRACE_S)
    await client.read_blob(f"{TENANT}/blobs/{version.table.part_sha256[0]}")


async def test_equal_bytes_of_two_tenants_stay_apart(client: DatasetClient, tmp_path: Path) -> None:
    other = DatasetClient(client.served, "tenants/other")
    mine = await client.put_blob(b"same", TRIAL)
    name = mine.name.replace("local", "other")
    assert (await refused(other.read_blob(name))).reason == "NOT_FOUND"
    owner = "tenants/other/experiments/e"
    assert (await refused(hold(other, owner, name))).reason == "NOT_FOUND"
    assert (await refused(hold(other, owner, mine.name))).reason == "NOT_FOUND"
    theirs = await other.put_blob(b"same", owner)
    assert theirs.name == name
    assert len(stored(tmp_path)) == 1
    await release(client, EXPERIMENT)
    await asyncio.sleep(1.5 * GRACE_S)
    assert await other.read_blob(name) == b"same"
    assert (await refused(client.read_blob(mine.name))).reason == "NOT_FOUND"


async def test_owners_are_of_the_parent(client: DatasetClient) -> None:
    error = await refused(client.put_blob(b"x", "tenants/other/experiments/e"))
    assert error.reason in ("INVALID_OWNER", "NOT_FOUND")


async def test_stores_and_collections_at_once_lose_nothing(tmp_path: Path) -> None:
    """Every put that was answered can be read until it is released, while collection runs."""
    async with dataset_service(tmp_path, collect_grace_s=0.0, collect_every_s=0.01) as client:
        await _store_and_release(client)


async def _store_and_release(client: DatasetClient) -> None:

    async def use(number: int) -> None:
        owner = f"{TENANT}/experiments/e{number}"
        for round_number in range(6):
            content = b"shared %d" % (round_number % 2)
            try:
                blob = await client.put_blob(content, owner)
            except AioRpcError as e:
                reasons.add(from_rpc_error(e).reason)
                continue
            assert await client.read_blob(blob.name) == content
            await release(client, owner)

    reasons: set[str] = set()
    await asyncio.gather(*(use(n) for n in range(6)))
    assert reasons <= {"BLOB_BUSY"}


async def test_damage_is_told(client: DatasetClient, tmp_path: Path) -> None:
    blob = await client.put_blob(BIG, TRIAL)
    path = next((tmp_path / "blobs/sha256").glob("*/*"))
    path.chmod(0o600)
    content = bytearray(BIG)
    content[5] ^= 1
    path.write_bytes(bytes(content))
    assert (await refused(client.read_blob(blob.name))).kind.value == "DATA_LOSS"
    path.unlink()
    assert (await refused(client.read_blob(blob.name))).reason == "BLOB_LOST"
    await client.put_blob(BIG, TRIAL)
    assert await client.read_blob(blob.name) == BIG


async def test_the_grace_period_is_kept(tmp_path: Path) -> None:
    class Later(SystemClock):
        ahead = timedelta()

        def now(self) -> Any:
            return super().now() + self.ahead

    clock = Later()
    async with dataset_service(
        tmp_path, clock=clock, collect_grace_s=600.0, collect_every_s=0.05
    ) as client:
        await client.put_blob(b"x", TRIAL)
        await release(client, TRIAL)
        await asyncio.sleep(0.3)
        assert stored(tmp_path)
        clock.ahead = timedelta(seconds=601)
        await until(lambda: not stored(tmp_path))
