"""What an S3 server sends of an object is counted as well as hashed."""

import hashlib
from contextlib import nullcontext
from typing import Any

import pytest
from urllib3 import Retry

from allotment_core.blobs.s3_reader import ObjectReader
from allotment_core.errors import DataLoss


class Answer:
    """Says that it has ten bytes and ends before them."""

    headers: dict[str, str] = {"content-length": "10"}  # noqa: RUF012

    def __init__(self) -> None:
        self.content = b"short"

    def read(self, _size: int) -> bytes:
        content, self.content = self.content, b""
        return content


class OneObject:
    def fresh_retry(self) -> Retry:
        return Retry(0)

    def errors(self) -> Any:
        return nullcontext()

    def get(self, _key: str, _offset: int) -> Answer:
        return Answer()


def test_an_answer_that_ends_early_is_not_the_blob() -> None:
    bucket: Any = OneObject()
    reader = ObjectReader(bucket, "key", hashlib.sha256(b"short and").hexdigest())
    assert reader.next() == b"short"
    with pytest.raises(DataLoss):
        reader.next()
