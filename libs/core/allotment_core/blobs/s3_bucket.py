"""One bucket of an S3 server, by blocking calls: core operations only, so that any server serves.

Every call has a limit of time on each attempt and a bounded number of attempts.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import certifi
from minio import Minio
from minio.credentials.providers import Provider
from minio.datatypes import Object
from minio.error import S3Error
from minio.helpers import check_bucket_name
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout

from allotment_core.blobs.s3_errors import store_errors
from allotment_core.blobs.s3_keys import FileKeys, FoundKeys, static_keys
from allotment_core.errors import InvalidArgument, Unavailable, clip

_PAGE = 1000
_TRANSIENT = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """Where objects are and how they are asked for."""

    endpoint: str
    """https://host or http://host:port."""
    bucket: str
    prefix: str = ""
    """A folder of the bucket, with neither slash at its ends."""
    region: str = ""
    """Empty: asked of the server."""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    access_key_file: Path | None = None
    secret_key_file: Path | None = None
    """Without keys and files, those of the machine are looked for (`FoundKeys`)."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust in place of the public ones."""
    virtual_host: bool | None = None
    """Bucket in the host's name (true) or in the path (false); None: as the host is known to want
    it.
    """
    create_bucket: bool = True
    """Whether a bucket that is missing at the start is created."""
    connect_s: float = 5.0
    answer_s: float = 20.0
    """The longest silence of the server within one attempt."""
    retries: int = 4
    backoff_s: float = 0.2
    part_bytes: int = 8 << 20
    """Larger objects are sent in parts of this size; 5 MiB at least."""
    concurrency: int = 16
    """Calls at once, and again so many objects that are being read."""


class Bucket:
    """The objects of one bucket below one prefix. Safe for many threads."""

    def __init__(self, config: S3Config) -> None:
        self.config = config
        url = urlsplit(config.endpoint)
        if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/"):
            raise InvalidArgument(
                f"the S3 endpoint is {clip(config.endpoint)!r}; it has to be https://host[:port] "
                "or http://host[:port]",
                reason="INVALID_CONFIG",
            )
        self._retry = Retry(
            total=config.retries,
            backoff_factor=config.backoff_s,
            backoff_max=5.0,
            backoff_jitter=config.backoff_s,
            status_forcelist=_TRANSIENT,
            # Every request may be repeated: objects never change, a second multipart upload is
            # another one.
            allowed_methods=None,
            # The last answer says why; an exception would not.
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        self._pool = PoolManager(
            timeout=Timeout(connect=config.connect_s, read=config.answer_s),
            maxsize=2 * config.concurrency,
            ca_certs=str(config.ca_file or certifi.where()),
            retries=self._retry,
        )
        try:
            self._client = Minio(
                url.netloc,
                credentials=_keys(config),
                secure=url.scheme == "https",
                region=config.region or None,
                http_client=self._pool,
            )
            check_bucket_name(config.bucket)
        except ValueError as e:
            raise InvalidArgument(
                f"the S3 settings can't be used: {e}", reason="INVALID_CONFIG"
            ) from e
        if config.virtual_host is True:
            self._client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
        elif config.virtual_host is False:
            self._client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]

    def open(self) -> None:
        """Sees that the bucket is there and may be listed; creates it when it is missing.

        Raises: InvalidArgument (STORE_BUCKET_MISSING) when it may not be created; Unavailable,
            naming the bucket.
        """
        config = self.config
        try:
            with self.errors():
                if self._is_there():
                    return
                if not config.create_bucket:
                    raise InvalidArgument(
                        f"the bucket {clip(config.bucket)!r} does not exist at {config.endpoint}; "
                        "create it, name another one, or let it be created",
                        reason="STORE_BUCKET_MISSING",
                    )
                self._create()
        except Unavailable as e:
            raise Unavailable(
                f"{e.message} (bucket {clip(config.bucket)!r} at {config.endpoint})",
                reason=e.reason,
            ) from e

    def _is_there(self) -> bool:
        # HEAD would do, but its answer has no body and so no reason.
        try:
            next(self._objects("", "", limit=1), None)
        except S3Error as e:
            if e.code != "NoSuchBucket":
                raise
            return False
        return True

    def _create(self) -> None:
        try:
            self._client.make_bucket(self.config.bucket, location=self.config.region or None)
        except S3Error as e:
            # Somebody else was faster.
            if e.code != "BucketAlreadyOwnedByYou":
                raise

    def close(self) -> None:
        self._pool.clear()

    def size(self, key: str) -> int | None:
        """None when there is no such object."""
        with self.errors():
            try:
                return self._client.stat_object(self.config.bucket, self._name(key)).size
            except S3Error as e:
                if e.code != "NoSuchKey":
                    raise
                return None

    def upload(self, key: str, source: BinaryIO, size_bytes: int) -> None:
        """Stores what the source gives, in parts when that is much.

        Nothing is stored when the source raises: then a multipart upload is aborted.
        """
        in_parts = size_bytes > self.config.part_bytes
        with self.errors():
            try:
                self._client.put_object(
                    self.config.bucket,
                    self._name(key),
                    source,
                    size_bytes,
                    part_size=self.config.part_bytes if in_parts else 0,
                    num_parallel_uploads=1,
                )
            except S3Error as e:
                # The last call was heard and its answer lost; it was sent again and found nothing
                # left to end. What is stored now tells.
                if e.code != "NoSuchUpload":
                    raise
                if self.size(key) != size_bytes:
                    raise

    def get(self, key: str, offset: int) -> BaseHTTPResponse:
        """The object from an offset on. Raises: S3Error, HTTPError."""
        return self._client.get_object(self.config.bucket, self._name(key), offset=offset)

    def delete(self, key: str) -> None:
        """What is not there is deleted already."""
        with self.errors():
            self._client.remove_object(self.config.bucket, self._name(key))

    def page(self, prefix: str, after: str) -> Sequence[tuple[str, int]]:
        """Keys and sizes below a prefix behind a key, in order; up to 1000, none at the end."""
        cut = len(self._name(""))
        with self.errors():
            found = islice(self._objects(prefix, after, limit=_PAGE), _PAGE)
            return [((each.object_name or "")[cut:], each.size or 0) for each in found]

    def _objects(self, prefix: str, after: str, *, limit: int) -> Iterator[Object]:
        # The public call lists without bound; this one by as many as are wanted.
        return self._client._list_objects(
            self.config.bucket,
            prefix=self._name(prefix),
            start_after=self._name(after) if after else None,
            max_keys=limit,
        )

    def abort_older(self, prefix: str, before: datetime) -> int:
        """Aborts multipart uploads below a prefix that began before; how many.

        The SDK has no public call for them.
        """
        count = 0
        with self.errors():
            listed = self._client._list_multipart_uploads(
                self.config.bucket, prefix=self._name(prefix)
            )
            for each in listed.uploads:
                began = each.initiated_time
                if each.upload_id and began and began < before:
                    self._client._abort_multipart_upload(
                        self.config.bucket, each.object_name, each.upload_id
                    )
                    count += 1
        return count

    def fresh_retry(self) -> Retry:
        return self._retry.new()

    def _name(self, key: str) -> str:
        return f"{self.config.prefix}/{key}" if self.config.prefix else key

    def errors(self) -> AbstractContextManager[None]:
        """Makes what a call raises the error tree's."""
        return store_errors(self.config.bucket, self.config.endpoint)


def _keys(config: S3Config) -> Provider:
    if config.access_key_file and config.secret_key_file:
        return FileKeys(config.access_key_file, config.secret_key_file)
    if config.access_key and config.secret_key:
        return static_keys(config.access_key, config.secret_key)
    if config.access_key or config.secret_key or config.access_key_file or config.secret_key_file:
        raise InvalidArgument(
            "only one of the two S3 keys is set; set access key and secret key, both as values or "
            "both as files, or neither",
            reason="INVALID_CONFIG",
        )
    return FoundKeys()
