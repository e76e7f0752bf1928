"""A running system for the tests of one module that don't break it.

ALLOTMENT_TEST_FORM=services has them run against services in processes of their own.
"""

from collections.abc import Iterator

import grpc
import pytest

from allotment_testkit.services_system import System, any_system


@pytest.fixture(scope="module")
def running_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with any_system(tmp_path_factory.mktemp("system") / "state") as system:
        yield system


@pytest.fixture(scope="module")
def raw_channel(running_system: System) -> Iterator[grpc.Channel]:
    with running_system.channel() as channel:
        yield channel
