"""One release on the cluster that KUBECONFIG names, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from allotment_testkit.release import Access, Release, why_unavailable


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    made = Release(
        folder=tmp_path_factory.mktemp("release"), values=("gateway.service.type=NodePort",)
    )
    made.install()
    yield made
    made.uninstall()


@pytest.fixture
def access(release: Release) -> Iterator[Access]:
    """Through a port-forward, as docs/kubernetes.md has it."""
    with release.forwarded("gateway", 443) as address:
        yield Access(environment=release.environment(address))
