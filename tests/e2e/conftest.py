"""A running system for the tests of one module that don't break it."""

from collections.abc import Iterator

import grpc
import pytest

from allotment_testkit.local_system import CHANNEL_OPTIONS, LocalSystem, local_system


@pytest.fixture(scope="module")
def running_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    with local_system(tmp_path_factory.mktemp("system") / "state") as system:
        yield system


@pytest.fixture(scope="module")
def raw_channel(running_system: LocalSystem) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running_system.address, options=CHANNEL_OPTIONS) as channel:
        yield channel
