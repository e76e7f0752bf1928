"""Whose trainer runs in a pod: what the cluster shows and the books confirm."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from allotment_allocator.adapters.kube import token_keys, trainer_pods
from allotment_allocator.adapters.kube.api import Json
from allotment_allocator.adapters.kube.token_keys import ClusterKeys
from allotment_allocator.adapters.kube.trainer_pods import InformedPods
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.identity import Identities, TrainerPod
from allotment_allocator.domain.lease import Lease, Problem
from allotment_core.errors import NotFound, Unavailable
from allotment_core.names import LeaseName, TenantName
from allotment_testkit.clock import ManualClock
from allotment_testkit.pod_tokens import ISSUER, PretendCluster, ec_key
from allotment_testkit.pool_market import HERE, START, experiment

ACME = TenantName("acme")
NAME = LeaseName(ACME, "l-1")
OURS = {
    "app.kubernetes.io/instance": "allotment",
    "allotment.dev/home": "allotment",
    "allotment.dev/tenant": "acme",
    "allotment.dev/lease": "l-1",
    "allotment.dev/epoch": "1",
}


def pod(uid: str = "u-1", namespace: str = "allotment-acme", **labels: str) -> Json:
    named = {name.replace("_", "."): value for name, value in labels.items()}
    changed = {f"allotment.dev/{name}": value for name, value in named.items()}
    return {"uid": uid, "namespace": namespace, "labels": {**OURS, **changed}}


class Shown:
    """What stands in for an informer of pods."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.synced = asyncio.Event()
        self.synced.set()
        self.pods = InformedPods(
            self,  # type: ignore[arg-type]
            "allotment",
            "allotment",
            lambda tenant: f"allotment-{tenant.tenant_id}",
        )

    def show(self, key: str, shown: Json | None) -> None:
        if shown is None:
            del self.objects[key]
        else:
            self.objects[key] = shown
        self.pods.pod_changed(key)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setattr(trainer_pods, "_SEEN_WITHIN_S", 0.0)
    return Shown()


async def test_a_pod_is_the_trainer_that_its_labels_name(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod())
    assert await shown.pods.find("allotment-acme", "u-1") == TrainerPod(NAME, 1)


@pytest.mark.parametrize(
    "lie",
    [
        pod(tenant="other"),
        pod(tenant="-"),
        pod(tenant="Not a tenant"),
        pod(lease="a/b"),
        pod(epoch="first"),
        pod(namespace="elsewhere"),
        {**pod(), "labels": {**OURS, "app.kubernetes.io/instance": "another"}},
        {**pod(), "labels": {**OURS, "allotment.dev/home": "another"}},
        {**pod(), "labels": {}},
    ],
    ids=range(9),
)
async def test_a_pod_that_is_not_ours_or_whose_labels_lie_is_nobodys(
    shown: Shown, lie: Json
) -> None:
    shown.show("x/p", lie)
    assert await shown.pods.find(lie["namespace"], "u-1") is None


async def test_the_namespace_has_to_be_the_pods_own(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod())
    assert await shown.pods.find("allotment-other", "u-1") is None


async def test_a_pod_that_is_gone_or_replaced_is_nobodys(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod("u-1"))
    shown.show("allotment-acme/p", pod("u-2", epoch="2"))
    assert await shown.pods.find("allotment-acme", "u-1") is None
    assert await shown.pods.find("allotment-acme", "u-2") == TrainerPod(NAME, 2)
    shown.show("allotment-acme/p", None)
    assert await shown.pods.find("allotment-acme", "u-2") is None


async def test_a_pod_that_is_gone_is_not_waited_for() -> None:
    shown = Shown()
    shown.show("allotment-acme/p", pod("u-1"))
    shown.show("allotment-acme/p", None)
    async with asyncio.timeout(trainer_pods._SEEN_WITHIN_S / 2):
        assert await shown.pods.find("allotment-acme", "u-1") is None


async def test_a_new_list_replaces_what_was_known(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod("u-1"))
    shown.objects = {"allotment-acme/q": pod("u-2")}
    shown.pods.pod_changed("")
    assert await shown.pods.find("allotment-acme", "u-1") is None
    assert await shown.pods.find("allotment-acme", "u-2") is not None


async def test_a_pod_that_calls_before_the_watch_tells_of_it_is_waited_for() -> None:
    shown = Shown()
    finding = asyncio.create_task(shown.pods.find("allotment-acme", "u-1"))
    await asyncio.sleep(0)
    shown.show("allotment-acme/p", pod())
    assert await finding == TrainerPod(NAME, 1)


async def test_nothing_is_said_before_the_pods_are_listed(shown: Shown) -> None:
    shown.synced.clear()
    with pytest.raises(Unavailable):
        await shown.pods.find("allotment-acme", "u-1")


# The books


def held(epoch: int = 1) -> Lease:
    made = Lease(name=NAME, holder=experiment("acme/x"), slot_count=1, create_time=START)
    lease = made.granted_at(HERE, START, 60)
    for _ in range(epoch - 1):
        lease = lease.restarted(None)
    return lease


async def _identified(shown: Shown, *leases: Lease) -> TrainerPod:
    board = Board()
    board.publish(leases, 0.0)
    return await Identities(shown.pods, board).identify("allotment-acme", "u-1")


async def test_a_trainer_of_a_held_lease_is_identified_until_it_has_handed_in(
    shown: Shown,
) -> None:
    shown.show("allotment-acme/p", pod())
    revoking = held().revoked(START, 10, Problem("FAIR_SHARE", "x"))
    for lease in (held(), revoking):
        assert await _identified(shown, lease) == TrainerPod(NAME, 1)


async def test_a_lease_that_has_ended_has_no_trainer(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod())
    later = START + timedelta(seconds=90)
    for leases in ((held().released(START),), (held().expired(later),), ()):
        with pytest.raises(NotFound) as refused:
            await _identified(shown, *leases)
        assert refused.value.reason == "LEASE_ENDED"


async def test_an_older_epochs_pod_is_no_trainer_any_more(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod())
    with pytest.raises(NotFound):
        await _identified(shown, held(epoch=2))


async def test_a_pod_that_is_ahead_of_the_books_tries_again(shown: Shown) -> None:
    shown.show("allotment-acme/p", pod(epoch="2"))
    with pytest.raises(Unavailable):
        await _identified(shown, held(epoch=1))


async def test_without_a_cluster_no_pod_is_a_trainer() -> None:
    with pytest.raises(NotFound) as refused:
        await Identities(None, Board()).identify("allotment-acme", "u-1")
    assert refused.value.reason == "NO_TRAINER"


# The cluster's keys


class Server:
    """An API server that has two documents."""

    def __init__(self) -> None:
        self.cluster = PretendCluster(ec_key())
        self.issuer: Any = ISSUER
        self.paths: list[str] = []
        self.trouble: Exception | None = None

    async def get(self, path: str, **_params: str) -> Json:
        self.paths.append(path)
        if self.trouble is not None:
            raise self.trouble
        if path == token_keys.ISSUER_PATH:
            return {"issuer": self.issuer, "jwks_uri": "https://elsewhere.example/keys"}
        assert path == token_keys.KEYS_PATH
        return json.loads(self.cluster.jwks())  # type: ignore[no-any-return]

    def keys(self, clock: ManualClock) -> ClusterKeys:
        return ClusterKeys(self, clock)  # type: ignore[arg-type]


async def test_keys_and_issuer_come_from_the_api_server_alone() -> None:
    server, clock = Server(), ManualClock()
    keys = await server.keys(clock).fetch(server.cluster.key_id)
    assert (keys.issuer, keys.audience) == (ISSUER, "allotment")
    assert json.loads(keys.jwks) == json.loads(server.cluster.jwks())
    assert server.paths == [token_keys.ISSUER_PATH, token_keys.KEYS_PATH]


async def test_an_unknown_key_has_them_fetched_again_but_not_at_every_call() -> None:
    server, clock = Server(), ManualClock()
    keys = server.keys(clock)
    await keys.fetch("cluster-key-1")
    await keys.fetch("cluster-key-1")
    assert len(server.paths) == 2
    server.cluster = PretendCluster(ec_key(), "cluster-key-2")
    assert "cluster-key-2" not in (await keys.fetch("cluster-key-2")).jwks
    clock.advance(token_keys.SOONEST_S)
    assert "cluster-key-2" in (await keys.fetch("cluster-key-2")).jwks


@pytest.mark.parametrize("what", ["away", "no issuer", "no keys"])
async def test_the_last_good_keys_are_kept(what: str) -> None:
    server, clock = Server(), ManualClock()
    keys = server.keys(clock)
    good = await keys.fetch("cluster-key-1")
    if what == "away":
        server.trouble = Unavailable("the API server is away")
    elif what == "no issuer":
        server.issuer = None
    else:
        server.cluster.jwks = lambda: "{}"  # type: ignore[method-assign]
    clock.advance(token_keys.SOONEST_S)
    assert await keys.fetch("another") == good


async def test_before_the_first_answer_there_are_no_keys_but_there_are_pods() -> None:
    server, clock = Server(), ManualClock()
    server.trouble = Unavailable("the API server is away")
    keys = await server.keys(clock).fetch("cluster-key-1")
    assert (keys.jwks, keys.issuer, keys.audience) == ("", "", "allotment")


async def test_they_are_fetched_at_the_start_without_being_asked_for() -> None:
    server = Server()
    keys = server.keys(ManualClock())
    running = asyncio.create_task(keys.run())
    try:
        async with asyncio.timeout(5):
            while not (await keys.fetch("")).jwks:  # noqa: ASYNC110 (it runs beside this)
                await asyncio.sleep(0)
    finally:
        running.cancel()
