"""A running system for the tests of one module that don't break it.

ALLOTMENT_TEST_FORM=services has them run against services in processes of their own.
"""

import os
from collections.abc import Iterator

import grpc
import pytest

from allotment_testkit.services_system import FORM, System, any_system


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the other form, tests that start a system of their own would only be repeated."""
    if os.environ.get(FORM) != "services":
        return
    kept: list[pytest.Item] = []
    repeated: list[pytest.Item] = []
    for item in items:
        asks = "running_system" in getattr(item, "fixturenames", ()) or "e2e" not in item.path.parts
        (kept if asks else repeated).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=repeated)


@pytest.fixture(scope="module")
def running_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with any_system(tmp_path_factory.mktemp("system") / "state") as system:
        yield system


@pytest.fixture(scope="module")
def raw_channel(running_system: System) -> Iterator[grpc.Channel]:
    with running_system.channel() as channel:
        yield channel
