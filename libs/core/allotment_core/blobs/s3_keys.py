"""Where an S3 client's keys come from."""

from pathlib import Path

from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from allotment_core.errors import Unavailable

_METADATA_S = 2.0


class FileKeys(Provider):
    """Keys in two files, read for every request: a rotated secret counts at once."""

    def __init__(self, access_key_file: Path, secret_key_file: Path) -> None:
        self._files = (access_key_file, secret_key_file)

    def retrieve(self) -> Credentials:
        try:
            access_key, secret_key = (
                each.read_text(encoding="utf-8").strip() for each in self._files
            )
            return Credentials(access_key, secret_key)
        except (OSError, ValueError) as e:
            raise Unavailable(
                "the object store's keys can't be read from their files; the server's "
                "administrator has to look at them",
                reason="STORE_NO_KEYS",
                retry_after_s=5.0,
            ) from e


class FoundKeys(Provider):
    """Keys of the machine, by the chain that AWS's own clients use: environment, profile file, web
    identity token, container, instance.
    """

    def __init__(self) -> None:
        quick = PoolManager(
            timeout=Timeout(connect=_METADATA_S, read=_METADATA_S), retries=Retry(1)
        )
        self._chain = ChainedProvider(
            [EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=quick)]
        )

    def retrieve(self) -> Credentials:
        try:
            return self._chain.retrieve()
        except (ValueError, HTTPError, OSError) as e:
            raise Unavailable(
                "no keys for the object store were found, neither in the settings nor in the "
                "environment, a profile, a web identity token or the machine's metadata; the "
                "server's administrator has to give it some",
                reason="STORE_NO_KEYS",
                retry_after_s=5.0,
            ) from e


def static_keys(access_key: str, secret_key: str) -> Provider:
    return StaticProvider(access_key, secret_key)
