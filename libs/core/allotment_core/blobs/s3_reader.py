"""One object that is being read: again from where it stopped when the connection is lost."""

import hashlib

from minio.error import S3Error
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from allotment_core.blobs.port import CHUNK_BYTES, missing, verify
from allotment_core.blobs.s3_bucket import Bucket


class ObjectReader:
    """The bytes of one object in order, verified. Blocks; used by one thread at a time."""

    def __init__(self, bucket: Bucket, key: str, sha256: str) -> None:
        """Raises: NotFound (BLOB_NOT_FOUND), Unavailable."""
        self._bucket = bucket
        self._key = key
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._retry = bucket.fresh_retry()
        self.position = 0
        with bucket.errors():
            self._response = self._open()
        self.size_bytes = int(self._response.headers["content-length"])

    def next(self) -> bytes:
        """Up to CHUNK_BYTES; b"" at the end.

        The last bytes are given only when all are right. Raises: DataLoss (BLOB_DAMAGED),
        NotFound, Unavailable.
        """
        with self._bucket.errors():
            data = self._read()
        self._digest.update(data)
        self.position += len(data)
        if self.position >= self.size_bytes or not data:
            verify(self._digest, self._sha256)
        return data

    def _read(self) -> bytes:
        while True:
            try:
                data = self._response.read(min(CHUNK_BYTES, self.size_bytes - self.position))
            except (HTTPError, OSError) as e:
                self._response.close()
                # The HTTP library repeats requests by itself, but not the reading of an answer.
                self._retry = self._retry.increment("GET", self._key, error=e)
                self._retry.sleep()
                self._response = self._open()
            else:
                self._retry = self._bucket.fresh_retry()
                return data

    def _open(self) -> BaseHTTPResponse:
        try:
            return self._bucket.get(self._key, self.position)
        except S3Error as e:
            if e.code == "NoSuchKey":
                raise missing(self._sha256) from None
            raise

    def close(self) -> None:
        """Gives the connection back when all was read, else ends it."""
        if self.position >= self.size_bytes:
            self._response.release_conn()
        else:
            self._response.close()
