"""Trainers as Jobs, against an API server in memory."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allotment_allocator.adapters.kube.informer import Informer
from allotment_allocator.adapters.kube.jobs import TRAINER_LABEL, JobRules, make_job
from allotment_allocator.adapters.kube.launcher import KubeLauncher
from allotment_allocator.adapters.kube.nodes import trim_pod
from allotment_allocator.adapters.kube.vigil import Vigil, refused
from allotment_allocator.domain.pool import GPU, Place
from allotment_allocator.domain.ports import TrainerOrder, TrainerState
from allotment_core.errors import AlreadyExists, NotFound, PermissionDenied
from allotment_core.names import LeaseName, PoolName, TenantName
from allotment_testkit.clock import ManualClock

Json = dict[str, Any]
RULES = JobRules(release="r", home="h", image="i", controller="c:1", dataset="d:1")
ACME = TenantName("acme")
JOBS, PODS = "/apis/batch/v1/jobs", "/api/v1/pods"


class ApiServer:
    """Jobs and pods; changes are watched at once. Deleting a Job deletes its pods."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = {JOBS: {}, PODS: {}}
        self.refuses: Exception | None = None
        self.graces: list[int] = []
        """Of pods that were deleted."""
        self._versions = itertools.count(1)
        self._watches: dict[str, list[asyncio.Queue[Json]]] = {JOBS: [], PODS: []}

    def put(self, kind: str, item: Json, change: str = "MODIFIED") -> None:
        item["metadata"].setdefault("uid", f"u-{next(self._versions)}")
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        key = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        if change == "DELETED":
            self.objects[kind].pop(key, None)
        else:
            self.objects[kind][key] = item
        for watch in self._watches[kind]:
            watch.put_nowait({"type": change, "object": item})

    async def get(self, path: str, **_params: str) -> Json:
        if path in self.objects:
            items = list(self.objects[path].values())
            return {"items": items, "metadata": {"resourceVersion": str(next(self._versions))}}
        item = self.objects[JOBS].get(_key(path))
        if item is None:
            raise NotFound("none")
        return item

    async def watch(
        self, path: str, _silence_s: float, on_open: Callable[[], None], **_params: str
    ) -> AsyncIterator[Json]:
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._watches[path].append(queue)
        on_open()
        while True:
            yield await queue.get()

    async def create(self, path: str, body: Json) -> Json:
        if self.refuses is not None:
            raise self.refuses
        body["metadata"]["namespace"] = path.split("/")[5]
        if f"{body['metadata']['namespace']}/{body['metadata']['name']}" in self.objects[JOBS]:
            raise AlreadyExists("there", reason="OBJECT_EXISTS")
        self.put(JOBS, body, "ADDED")
        return body

    async def delete(self, path: str, options: Json | None = None) -> bool:
        if "/pods/" in path:
            self.graces.append((options or {})["gracePeriodSeconds"])
        if self.refuses is not None:
            raise self.refuses
        kind = PODS if "/pods/" in path else JOBS
        item = self.objects[kind].get(_key(path))
        if item is None:
            return False
        self.put(kind, item, "DELETED")
        return True


def _key(path: str) -> str:
    parts = path.split("/")
    return f"{parts[-3]}/{parts[-1]}"


class Spaces:
    def name_of(self, tenant: TenantName) -> str:
        return f"r-{tenant.tenant_id}"

    async def ensure(self, tenant: TenantName) -> None: ...

    def doubt(self, tenant: TenantName) -> None: ...


def order(trainer_id: str = "t-1", epoch: int = 1) -> TrainerOrder:
    return TrainerOrder(
        trainer_id=trainer_id,
        lease=LeaseName(ACME, "l-1"),
        epoch=epoch,
        slot_count=1,
        place=Place(PoolName("h100"), "n1"),
        resource=GPU,
        server="",
        token="",
        threads=1,
        memory_bytes=1,
        cache_dir=Path(),
    )


def job(trainer_id: str = "t-1", **labels: str) -> Json:
    made = make_job(order(trainer_id), RULES, GPU)
    made["metadata"]["namespace"] = "r-acme"
    made["metadata"]["labels"] = {**made["metadata"]["labels"], **labels}
    return made


def pod(trainer_id: str = "t-1", phase: str = "Running") -> Json:
    labels = {**job(trainer_id)["metadata"]["labels"], "batch.kubernetes.io/job-name": "l-1-1"}
    state: Json = {"running": {}} if phase == "Running" else {}
    return {
        "metadata": {"name": "l-1-1-x", "namespace": "r-acme", "uid": "u", "labels": labels},
        "spec": {"nodeName": "n1"},
        "status": {"phase": phase, "containerStatuses": [{"state": state}]},
    }


@asynccontextmanager
async def launching(api: Any, clock: ManualClock | None = None) -> AsyncIterator[KubeLauncher]:
    pods = Informer(api, PODS, trim_pod, lambda key: launcher.pod_changed(key))
    launcher = KubeLauncher(api, RULES, Spaces(), pods, clock or ManualClock())
    tasks = [asyncio.create_task(each.run()) for each in (pods, launcher.jobs)]
    await pods.synced.wait()
    await launcher.jobs.synced.wait()
    try:
        yield launcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await launcher.close()


def told(launcher: KubeLauncher) -> list[tuple[str, str, str]]:
    """What is told from now on: the Job's name, the reason, the sentence."""
    heard: list[tuple[str, str, str]] = []
    launcher.tell = lambda job, _kind, reason, note: heard.append((job["name"], reason, note))
    return heard


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_trainer_runs_when_its_pod_does_and_is_gone_when_its_job_is() -> None:
    api = ApiServer()
    async with launching(api) as launcher:
        launcher.launch(order())
        await settled()
        assert [t.state for t in launcher.trainers()] == [TrainerState.STARTING]
        assert list(api.objects[JOBS]) == ["r-acme/l-1-1"]
        api.put(PODS, pod())
        await settled()
        assert [t.state for t in launcher.trainers()] == [TrainerState.RUNNING]
        launcher.kill("t-1")
        await settled()
        assert api.objects == {JOBS: {}, PODS: {}}
        assert launcher.trainers() == ()
        assert [gone.trainer.trainer_id for gone in launcher.take_exits()] == ["t-1"]


async def test_jobs_of_an_earlier_life_are_known_with_their_pods() -> None:
    api = ApiServer()
    api.put(PODS, pod())
    api.put(JOBS, job())
    async with launching(api) as launcher:
        await settled()
        [trainer] = launcher.trainers()
        assert (trainer.trainer_id, trainer.epoch) == ("t-1", 1)
        assert trainer.place == Place(PoolName("h100"), "n1")
        assert trainer.state is TrainerState.RUNNING


@pytest.mark.parametrize(
    "labels",
    [
        {"allotment.dev/epoch": "first"},
        {"allotment.dev/lease": "No lease!"},
        {"allotment.dev/tenant": ""},
    ],
)
async def test_a_job_that_is_not_understood_is_left_alone_and_told_once(
    labels: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    api = ApiServer()
    api.put(JOBS, job(**labels))
    async with launching(api) as launcher:
        api.put(JOBS, job(**labels))
        launcher.launch(order("t-2", epoch=7))
        await settled()
        assert [t.trainer_id for t in launcher.trainers()] == ["t-2"]
        assert len(api.objects[JOBS]) == 2
    assert sum("not understood" in record.message for record in caplog.records) == 1


async def test_a_job_without_annotations_is_left_alone() -> None:
    api = ApiServer()
    bare = job()
    del bare["metadata"]["annotations"]
    api.put(JOBS, bare)
    async with launching(api) as launcher:
        await settled()
        assert launcher.trainers() == ()


async def test_an_older_job_of_the_same_name_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("allotment_allocator.adapters.kube.launcher._PAUSES_S", (0.0,))
    api = ApiServer()
    api.put(JOBS, job("t-old"))
    async with launching(api) as launcher:
        await settled()
        launcher.launch(order("t-new"))
        await settled()
        [made] = api.objects[JOBS].values()
        assert made["metadata"]["labels"][TRAINER_LABEL] == "t-new"
        assert [t.trainer_id for t in launcher.trainers()] == ["t-new"]
        assert [gone.trainer.trainer_id for gone in launcher.take_exits()] == ["t-old"]


async def test_a_refused_job_is_the_end_of_its_trainer_with_the_reason() -> None:
    api = ApiServer()
    api.refuses = PermissionDenied("jobs is forbidden")
    async with launching(api) as launcher:
        launcher.launch(order())
        await settled()
        [gone] = launcher.take_exits()
        assert "jobs is forbidden" in gone.cause


async def test_a_trainer_that_may_not_be_removed_is_tried_again() -> None:
    api = ApiServer()
    api.put(JOBS, job())
    async with launching(api) as launcher:
        await settled()
        api.refuses = PermissionDenied("no")
        launcher.kill("t-1")
        await settled()
        assert [t.state for t in launcher.trainers()] == [TrainerState.LEAVING]
        api.refuses = None
        launcher.kill("t-1")
        await settled()
        assert launcher.trainers() == ()


@pytest.mark.parametrize(("gone", "grace_s"), [(True, 0), (False, 1)])
async def test_pods_of_a_node_that_is_gone_are_not_waited_for(gone: bool, grace_s: int) -> None:
    api = ApiServer()
    api.put(PODS, pod())
    api.put(JOBS, job())
    async with launching(api) as launcher:
        launcher.node_is_gone = lambda node: gone and node == "n1"
        await settled()
        launcher.kill("t-1")
        await settled()
        assert api.graces == [grace_s]


async def test_what_happens_to_a_job_is_told() -> None:
    api = ApiServer()
    async with launching(api) as launcher:
        heard = told(launcher)
        launcher.launch(order())
        await settled()
        waiting = pod(phase="Pending")
        waiting["status"]["containerStatuses"] = [
            {"state": {"waiting": {"reason": "ErrImagePull"}}}
        ]
        api.put(PODS, waiting)
        await settled()
        failed = pod(phase="Failed")
        failed["status"]["containerStatuses"] = [{"state": {"terminated": {"exitCode": 3}}}]
        api.put(PODS, failed)
        conditions = [{"type": "Failed", "status": "True"}]
        api.put(JOBS, {**api.objects[JOBS]["r-acme/l-1-1"], "status": {"conditions": conditions}})
        await settled()
    assert [(name, reason) for name, reason, _ in heard] == [
        ("l-1-1", "Granted"),
        ("l-1-1", "ImagePull"),
        ("l-1-1", "TrainerEnded"),
    ]
    assert "exit status 3" in heard[-1][2]
    assert "pools/h100, node n1, epoch 1" in heard[0][2]


async def test_why_a_job_has_no_pod_is_its_wait_until_it_has_one() -> None:
    api, clock = ApiServer(), ManualClock()
    async with launching(api, clock) as launcher:
        launcher.launch(order())
        await settled()
        assert launcher.without_pod(3) == []
        clock.advance(3)
        [key] = launcher.without_pod(3)
        message = 'pods "l-1-1-x" is forbidden: exceeded quota: team, limited: pods=0'
        launcher.explain(key, refused({"message": message}, "r-acme"))
        [trainer] = launcher.trainers()
        assert trainer.hint is not None
        assert trainer.hint.reason == "POD_REFUSED"
        assert "raise the ResourceQuota of namespace r-acme" in trainer.hint.message
        api.put(PODS, pod())
        await settled()
        assert launcher.without_pod(3) == []
        assert launcher.trainers()[0].hint is None


async def test_a_pod_that_no_job_has_is_a_stray() -> None:
    api = ApiServer()
    api.put(PODS, pod())
    async with launching(api) as launcher:
        assert launcher.strays() == ["r-acme/l-1-1-x"]
        launcher.launch(order())
        await settled()
        assert launcher.strays() == []


class Asked:
    """Answers about a Job without a pod."""

    def __init__(self, *events: Json, there: bool = True) -> None:
        self.events, self.there = list(events), there
        self.asked: list[str] = []
        self.deleted: list[str] = []

    async def get(self, path: str, **params: str) -> Json:
        self.asked.append(path)
        if "/jobs/" in path and not self.there:
            raise NotFound("none")
        return {"items": self.events}

    async def delete(self, path: str, body: Json | None = None) -> bool:
        self.deleted.append(path)
        return True


async def test_the_clusters_own_events_say_why_a_job_has_no_pod() -> None:
    api, clock = ApiServer(), ManualClock()
    newest = {"message": "denied by policy", "lastTimestamp": "2026-01-02T00:00:00Z"}
    older = {"message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"}
    asked = Asked(newest, older)
    async with launching(api, clock) as launcher:
        vigil = Vigil(asked, launcher)
        launcher.launch(order())
        await settled()
        await vigil.look()
        assert asked.asked == []
        clock.advance(5)
        await vigil.look()
        await vigil.look()
        assert len(asked.asked) == 2
        [trainer] = launcher.trainers()
        assert trainer.hint is not None
        assert "denied by policy" in trainer.hint.message


async def test_a_job_that_came_and_went_unseen_is_gone() -> None:
    api, clock = ApiServer(), ManualClock()
    async with launching(api, clock) as launcher:
        launcher.launch(order())
        await settled()
        clock.advance(5)
        await Vigil(Asked(there=False), launcher).look()
        assert [gone.cause for gone in launcher.take_exits()] == ["its Job was deleted"]


async def test_a_stray_pod_is_removed_at_the_second_look() -> None:
    api = ApiServer()
    api.put(PODS, pod())
    asked = Asked()
    async with launching(api) as launcher:
        vigil = Vigil(asked, launcher)
        await vigil.look()
        assert asked.deleted == []
        await vigil.look()
        assert asked.deleted == ["/api/v1/namespaces/r-acme/pods/l-1-1-x"]


async def test_a_trainer_is_where_its_pod_is_when_its_node_had_still_to_come() -> None:
    api = ApiServer()
    async with launching(api) as launcher:
        launcher.launch(replace(order(), place=Place(PoolName("h100"), "+1")))
        await settled()
        waiting = pod(phase="Pending")
        waiting["spec"] = {}
        api.put(PODS, waiting)
        await settled()
        assert [t.place.node for t in launcher.trainers()] == ["+1"]
        api.put(PODS, pod())
        await settled()
        assert [t.place.node for t in launcher.trainers()] == ["n1"]
