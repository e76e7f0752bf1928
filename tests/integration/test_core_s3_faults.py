"""An S3 store on a bad day: connections that break, servers that refuse, damaged bytes."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import minio.time
import pytest

from allotment_core.blobs import CHUNK_BYTES
from allotment_core.blobs.s3 import S3BlobStore
from allotment_core.errors import (
    AllotmentError,
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from allotment_testkit.authority import Authority
from allotment_testkit.blobs import all_of, chunks, sha256_of
from allotment_testkit.local_system import free_port
from allotment_testkit.s3 import S3Server, drop_bucket, unfinished_uploads
from allotment_testkit.s3_faults import Fault, FaultyS3, faulty_s3

PREFIX = "blobs/sha256/"
BIG = bytes(range(256)) * (24 << 10) + b"the end"
"""6 MiB: two parts."""


@pytest.fixture
def front(s3_server: S3Server) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as opened:
        yield opened


@pytest.fixture
async def store(front: FaultyS3, s3_bucket: str, tmp_path: Path) -> AsyncIterator[S3BlobStore]:
    opened = S3BlobStore(front.server.config(s3_bucket), tmp_path / "aside")
    await opened.open()
    front.requests.clear()
    yield opened
    await opened.close()


async def refused(store: S3BlobStore) -> AllotmentError:
    with pytest.raises(AllotmentError) as caught:
        await store.put(chunks(b"content"))
    return caught.value


class TestDamage:
    @pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
    @pytest.mark.parametrize("offset", [0, CHUNK_BYTES + 5])
    async def test_is_never_read_as_the_blob(
        self, store: S3BlobStore, s3_server: S3Server, s3_bucket: str, damage: str, offset: int
    ) -> None:
        blob = await store.put(chunks(b"x" * CHUNK_BYTES, b"y" * CHUNK_BYTES))
        content = bytearray(b"x" * CHUNK_BYTES + b"y" * CHUNK_BYTES)
        content[3] ^= 1
        damaged = bytes({"cut": content[:-1], "grow": content + b"z"}.get(damage, content))
        s3_server.client().put_object(
            s3_bucket, PREFIX + blob.sha256, io.BytesIO(damaged), len(damaged)
        )
        received: list[bytes] = []

        async def read() -> None:
            async for chunk in store.read(blob.sha256, offset):
                received.append(chunk)

        with pytest.raises(DataLoss) as caught:
            await read()
        assert caught.value.reason == "BLOB_DAMAGED"
        assert sum(map(len, received)) < len(damaged) - offset
        await store.put(chunks(b"x" * CHUNK_BYTES, b"y" * CHUNK_BYTES))
        assert len(await all_of(store.read(blob.sha256))) == 2 * CHUNK_BYTES


class TestBrokenConnections:
    async def test_a_read_goes_on_where_it_was_cut(
        self, store: S3BlobStore, front: FaultyS3
    ) -> None:
        blob = await store.put(chunks(BIG))
        front.add(Fault(method="GET", cut_answer_at=2 * CHUNK_BYTES + 17))
        front.add(Fault(method="GET", cut_answer_at=5))
        assert await all_of(store.read(blob.sha256)) == BIG
        assert sum(each.startswith("GET") for each in front.requests) == 3

    async def test_a_read_that_is_cut_again_and_again_ends(
        self, store: S3BlobStore, front: FaultyS3
    ) -> None:
        blob = await store.put(chunks(BIG))
        front.add(Fault(method="GET", cut_answer_at=5, times=100))
        with pytest.raises(Unavailable) as caught:
            await all_of(store.read(blob.sha256))
        assert caught.value.reason == "STORE_UNREACHABLE"

    async def test_a_put_that_is_cut_is_repeated(self, store: S3BlobStore, front: FaultyS3) -> None:
        front.add(Fault(method="PUT", cut_request_at=3))
        blob = await store.put(chunks(b"content"))
        front.add(Fault(method="PUT", query="partNumber=2", cut_request_at=CHUNK_BYTES // 2))
        big = await store.put(chunks(BIG))
        assert await all_of(store.read(blob.sha256)) == b"content"
        assert await all_of(store.read(big.sha256)) == BIG

    async def test_a_put_whose_answers_are_lost_is_repeated(
        self, store: S3BlobStore, front: FaultyS3, s3_server: S3Server, s3_bucket: str
    ) -> None:
        front.add(Fault(method="PUT", query="partNumber=1", answer_lost=True))
        front.add(Fault(method="POST", query="uploadId", answer_lost=True))
        big = await store.put(chunks(BIG))
        assert await all_of(store.read(big.sha256)) == BIG
        assert unfinished_uploads(s3_server.client(), s3_bucket) == []

    async def test_a_put_in_parts_that_fails_is_aborted(
        self, store: S3BlobStore, front: FaultyS3, s3_server: S3Server, s3_bucket: str
    ) -> None:
        front.add(Fault(method="PUT", query="partNumber=2", cut_request_at=100, times=5))
        with pytest.raises(Unavailable):
            await store.put(chunks(BIG))
        assert unfinished_uploads(s3_server.client(), s3_bucket) == []
        assert [blob async for blob in store.list()] == []

    async def test_other_bytes_than_announced_leave_no_parts(
        self, store: S3BlobStore, s3_server: S3Server, s3_bucket: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "finished"
        path.write_bytes(BIG)
        with pytest.raises(InvalidArgument, match="expected 000"):
            await store.put_file(path, "0" * 64)
        assert unfinished_uploads(s3_server.client(), s3_bucket) == []
        assert [blob async for blob in store.list()] == []

    async def test_a_silent_server_is_given_up(
        self, front: FaultyS3, s3_bucket: str, tmp_path: Path
    ) -> None:
        config = front.server.config(s3_bucket, answer_s=0.2, retries=1)
        store = S3BlobStore(config, tmp_path / "aside")
        front.add(Fault(method="", silent_s=0.6, times=2))
        with pytest.raises(Unavailable, match="does not answer"):
            await store.stat("0" * 64)
        await store.close()


class TestRefusals:
    async def test_bursts_of_server_errors_are_borne(
        self, store: S3BlobStore, front: FaultyS3
    ) -> None:
        front.add(Fault(method="PUT", status=503, code="SlowDown", times=3))
        blob = await store.put(chunks(b"content"))
        front.add(Fault(method="GET", status=500, code="InternalError", times=3))
        assert await all_of(store.read(blob.sha256)) == b"content"
        front.add(Fault(method="POST", status=502, code="BadGateway", times=2))
        await store.put(chunks(BIG))

    @pytest.mark.parametrize(
        ("status", "code", "reason"),
        [
            (503, "SlowDown", "STORE_UNAVAILABLE"),
            (403, "InvalidAccessKeyId", "STORE_DENIED"),
            (403, "SignatureDoesNotMatch", "STORE_DENIED"),
            (403, "RequestTimeTooSkewed", "STORE_CLOCK_SKEWED"),
            (404, "NoSuchBucket", "STORE_BUCKET_MISSING"),
            (400, "AuthorizationHeaderMalformed", "STORE_WRONG_REGION"),
        ],
    )
    async def test_each_has_its_reason(
        self, store: S3BlobStore, front: FaultyS3, status: int, code: str, reason: str
    ) -> None:
        front.add(Fault(method="PUT", status=status, code=code, times=5))
        error = await refused(store)
        assert isinstance(error, Unavailable)
        assert error.reason == reason
        assert front.server.endpoint not in error.message

    async def test_a_full_store_is_said_so(self, store: S3BlobStore, front: FaultyS3) -> None:
        front.add(Fault(method="PUT", status=507, code="XMinioStorageFull"))
        error = await refused(store)
        assert isinstance(error, ResourceExhausted)
        assert error.reason == "DISK_FULL"

    async def test_nobody_there(self, s3_server: S3Server, tmp_path: Path) -> None:
        config = s3_server.config("some-bucket", endpoint=f"http://127.0.0.1:{free_port()}")
        store = S3BlobStore(config, tmp_path)
        with pytest.raises(Unavailable, match=r"does not answer.*some-bucket"):
            await store.open()
        await store.close()

    async def test_keys_and_clocks_that_a_real_server_refuses(
        self, s3_server: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not s3_server.checks_keys:
            pytest.skip("needs a server that checks keys: set S3_ENDPOINT")
        for changes in ({"secret_key": "wrong"}, {"access_key": "nobody"}):
            store = S3BlobStore(s3_server.config(s3_bucket, **changes), tmp_path)
            with pytest.raises(Unavailable) as caught:
                await store.open()
            await store.close()
            assert caught.value.reason == "STORE_DENIED"
        really = minio.time.utcnow
        monkeypatch.setattr(minio.time, "utcnow", lambda: really() - timedelta(minutes=20))
        store = S3BlobStore(s3_server.config(s3_bucket), tmp_path)
        with pytest.raises(Unavailable) as caught:
            await store.open()
        await store.close()
        assert caught.value.reason == "STORE_CLOCK_SKEWED"


class TestBuckets:
    async def test_a_missing_one_is_created_or_refused(
        self, s3_server: S3Server, s3_bucket: str, tmp_path: Path
    ) -> None:
        missing = f"{s3_bucket}-2"
        config = s3_server.config(missing, create_bucket=False)
        store = S3BlobStore(config, tmp_path / "aside")
        with pytest.raises(InvalidArgument, match="does not exist") as caught:
            await store.open()
        await store.close()
        assert caught.value.reason == "STORE_BUCKET_MISSING"
        store = S3BlobStore(s3_server.config(missing), tmp_path / "aside")
        try:
            await asyncio.gather(store.open(), store.open())
            assert (await store.put(chunks(b"x"))).size_bytes == 1
        finally:
            await store.close()
            drop_bucket(s3_server.client(), missing)

    async def test_what_killed_processes_left_is_aborted(
        self, store: S3BlobStore, s3_server: S3Server, s3_bucket: str
    ) -> None:
        name = PREFIX + sha256_of(BIG)
        client = s3_server.client()
        client._create_multipart_upload(s3_bucket, name, {})
        await store.drop_unfinished(datetime(2000, 1, 1, tzinfo=UTC))
        assert len(client._list_multipart_uploads(s3_bucket, prefix=name).uploads) == 1
        if s3_server.checks_keys:
            pytest.skip("this server lists unfinished uploads by whole names alone")
        assert await store.drop_unfinished(datetime.now(UTC)) == 1
        assert unfinished_uploads(client, s3_bucket) == []

    async def test_two_prefixes_of_one_bucket_stay_apart(
        self, store: S3BlobStore, s3_server: S3Server, s3_bucket: str, tmp_path: Path
    ) -> None:
        other = S3BlobStore(s3_server.config(s3_bucket, prefix="other"), tmp_path / "other")
        await other.open()
        blob = await store.put(chunks(b"content"))
        assert await other.stat(blob.sha256) is None
        with pytest.raises(NotFound):
            await all_of(other.read(blob.sha256))
        assert [each async for each in other.list()] == []
        await other.close()


class TestTls:
    async def test_the_authority_that_is_named_is_trusted_and_no_other(
        self, s3_server: S3Server, s3_bucket: str, tmp_path: Path
    ) -> None:
        files = Authority().issue(tmp_path, "s3")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        with faulty_s3(s3_server, context) as front:
            trusted = front.server.config(s3_bucket, ca_file=files.ca)
            store = S3BlobStore(trusted, tmp_path / "aside")
            await store.open()
            blob = await store.put(chunks(BIG))
            assert await all_of(store.read(blob.sha256)) == BIG
            await store.close()
            store = S3BlobStore(front.server.config(s3_bucket, retries=0), tmp_path / "aside")
            with pytest.raises(Unavailable) as caught:
                await store.open()
            await store.close()
        assert caught.value.reason == "STORE_UNTRUSTED"


class TestKeys:
    @pytest.mark.parametrize(
        "changes",
        [
            {"secret_key": ""},
            {"access_key": "", "secret_key": "", "access_key_file": Path("/k")},
            {"endpoint": "s3.example.com"},
            {"bucket": "No/Bucket"},
        ],
    )
    def test_settings_that_make_no_sense_are_refused(
        self, s3_server: S3Server, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        config = s3_server.config(**{"bucket": "some-bucket", **changes})
        with pytest.raises(InvalidArgument):
            S3BlobStore(config, tmp_path)

    async def test_files_of_keys_are_read_again(
        self, s3_server: S3Server, s3_bucket: str, tmp_path: Path
    ) -> None:
        files = {name: tmp_path / name for name in ("access_key_file", "secret_key_file")}
        keys = {"access_key": "", "secret_key": ""}
        store = S3BlobStore(s3_server.config(s3_bucket, **keys, **files), tmp_path / "aside")
        with pytest.raises(Unavailable) as caught:
            await store.open()
        assert caught.value.reason == "STORE_NO_KEYS"
        files["access_key_file"].write_text(s3_server.access_key + "\n")
        files["secret_key_file"].write_text(s3_server.secret_key + "\n")
        await store.open()
        await store.close()

    async def test_keys_of_the_machine_are_found(
        self,
        s3_server: S3Server,
        s3_bucket: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
        config = s3_server.config(s3_bucket, access_key="", secret_key="")
        store = S3BlobStore(config, tmp_path / "aside")
        await store.open()
        await store.close()
