"""An S3 server for tests: the one that the environment names, or one that pip brings."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from minio import Minio

from allotment_core.blobs.s3_bucket import S3Config

_MULTIPART_LISTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """Where a server is and the keys that it takes."""

    endpoint: str
    """http://127.0.0.1:9000"""
    access_key: str
    secret_key: str
    checks_keys: bool
    """Whether it refuses wrong keys and skewed clocks; the one that pip brings does not."""

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def config(self, bucket: str, **changes: Any) -> S3Config:
        """Quick to give up: tests wait for failures."""
        config = S3Config(
            endpoint=self.endpoint,
            bucket=bucket,
            access_key=self.access_key,
            secret_key=self.secret_key,
            connect_s=2.0,
            answer_s=5.0,
            backoff_s=0.02,
            part_bytes=5 << 20,
            concurrency=4,
        )
        return replace(config, **changes)

    def client(self) -> Minio:
        """For looking at what is really stored."""
        scheme, _, address = self.endpoint.partition("://")
        return Minio(
            address,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=scheme == "https",
            region="us-east-1",
        )


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server of S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY; when they are not set, a process
    on 127.0.0.1 that keeps everything in memory and is gone at the end of the block.
    """
    named = os.environ.get("S3_ENDPOINT", "")
    if named:
        yield S3Server(
            endpoint=named if "://" in named else f"http://{named}",
            access_key=os.environ["S3_ACCESS_KEY"],
            secret_key=os.environ["S3_SECRET_KEY"],
            checks_keys=True,
        )
        return
    with subprocess.Popen(
        [sys.executable, "-m", "allotment_testkit.s3_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A terminal's Ctrl-C is not for it: who uses it ends first.
        process_group=0,
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the S3 server did not start: pip install 'allotment[dev]'")
            yield S3Server(
                endpoint=f"http://127.0.0.1:{port}",
                access_key="tests",
                secret_key="tests-secret",
                checks_keys=False,
            )
        finally:
            process.kill()


@contextmanager
def s3_bucket(server: S3Server) -> Iterator[str]:
    """The name of a new bucket; it and what is in it are gone at the end of the block."""
    client = server.client()
    bucket = f"allotment-test-{secrets.token_hex(6)}"
    client.make_bucket(bucket)
    try:
        yield bucket
    finally:
        drop_bucket(client, bucket)


def drop_bucket(client: Minio, bucket: str) -> None:
    """Deletes a bucket with all in it; one that is not there is gone already."""
    if client.bucket_exists(bucket):
        for each in client.list_objects(bucket, recursive=True):
            client.remove_object(bucket, each.object_name or "")
        for name, upload_id in unfinished_uploads(client, bucket):
            client._abort_multipart_upload(bucket, name, upload_id)
        client.remove_bucket(bucket)


def unfinished_uploads(client: Minio, bucket: str) -> list[tuple[str, str]]:
    """Object name and upload id of every multipart upload that was neither ended nor aborted."""
    listed = client._list_multipart_uploads(bucket, max_uploads=_MULTIPART_LISTED)
    return [(each.object_name, each.upload_id or "") for each in listed.uploads]
