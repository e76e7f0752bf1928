"""The store of all bytes that the settings name."""

import asyncio
import importlib.util
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from allotment_core.blobs import BlobStore, FolderBlobStore
from allotment_core.errors import InvalidArgument, Unavailable, clip
from allotment_dataset.config import DatasetConfig

if TYPE_CHECKING:
    from allotment_core.blobs.s3 import S3BlobStore, S3Config

log = logging.getLogger(__name__)

OPEN_PATIENCE_S = 30.0
"""How long a start waits for a server that is not there yet, as it does for a database."""
_PAUSE_S = 0.5
_AWAY = ("STORE_UNREACHABLE", "STORE_UNAVAILABLE")


async def _nothing() -> None:
    """A folder needs no closing."""


async def _nothing_unfinished(_before: datetime) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """A store that can be used now."""

    blobs: BlobStore
    drop_unfinished: Callable[[datetime], Awaitable[int]] = _nothing_unfinished
    """Frees what killed processes were sending since before an instant; how many objects."""
    close: Callable[[], Awaitable[None]] = _nothing


async def opened_store(
    config: DatasetConfig, open_patience_s: float = OPEN_PATIENCE_S
) -> OpenStore:
    """Raises: InvalidArgument for settings that name no store; Unavailable when a bucket can't be
    used, and why.
    """
    if not config.blobs:
        if config.blob_dir is None:
            raise _invalid(
                "neither ALLOTMENT_DATASET_BLOB_DIR nor ALLOTMENT_DATASET_BLOBS is set; name a "
                "folder or a bucket for the bytes"
            )
        return OpenStore(blobs=FolderBlobStore(config.blob_dir))
    s3_config = _s3_config(config)
    from allotment_core.blobs.s3 import S3BlobStore  # noqa: PLC0415 - only who has a bucket needs it

    store = S3BlobStore(s3_config, config.work_dir / "sending")
    try:
        await _open(store, open_patience_s)
    except BaseException:
        await store.close()
        raise
    return OpenStore(blobs=store, drop_unfinished=store.drop_unfinished, close=store.close)


async def _open(store: "S3BlobStore", patience_s: float) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience_s
    while True:
        try:
            return await store.open()
        except Unavailable as e:
            if e.reason not in _AWAY or loop.time() >= ends:
                raise
            log.info("the object store is not there yet", extra={"reason": e.reason})
        await asyncio.sleep(_PAUSE_S)


def _s3_config(config: DatasetConfig) -> "S3Config":
    url = urlsplit(config.blobs)
    if url.scheme != "s3" or not url.netloc:
        raise _invalid(
            f"ALLOTMENT_DATASET_BLOBS is {clip(config.blobs)!r}; it has to be s3://bucket or "
            "s3://bucket/folder, or empty"
        )
    if importlib.util.find_spec("minio") is None:
        raise _invalid(
            "ALLOTMENT_DATASET_BLOBS names a bucket, which needs the extra [s3]: pip install "
            "'allotment[s3]'"
        )
    from allotment_core.blobs.s3 import S3Config  # noqa: PLC0415 - only who has a bucket needs it

    return S3Config(
        endpoint=config.s3_endpoint,
        bucket=url.netloc,
        prefix=url.path.strip("/"),
        region=config.s3_region,
        access_key=config.s3_access_key,
        secret_key=config.s3_secret_key,
        access_key_file=config.s3_access_key_file,
        secret_key_file=config.s3_secret_key_file,
        ca_file=config.s3_ca_file,
        virtual_host=config.s3_virtual_host,
        create_bucket=config.s3_create_bucket,
        answer_s=config.s3_answer_s,
        concurrency=config.s3_concurrency,
    )


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="INVALID_CONFIG")
