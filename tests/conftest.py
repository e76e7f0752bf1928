"""For all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from allotment_testkit import postgres, s3

# onnxruntime reads this when it is imported, and then sends nothing anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of one PostgreSQL for the whole run."""
    reason = postgres.why_unavailable()
    if reason:
        pytest.skip(reason)
    with postgres.postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database for this test alone."""
    with postgres.fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database for this test alone: the test runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.S3Server]:
    """One S3 server for the whole run."""
    with s3.s3_server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: s3.S3Server) -> Iterator[str]:
    """An empty bucket for this test alone."""
    with s3.s3_bucket(s3_server) as bucket:
        yield bucket
