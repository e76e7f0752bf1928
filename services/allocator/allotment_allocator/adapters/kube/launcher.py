"""Trainers as Jobs. The cluster's Jobs and pods are what is true; nothing is stored here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from allotment_allocator.adapters.kube import jobs
from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.events import NORMAL, WARNING, job_reference
from allotment_allocator.adapters.kube.informer import Informer
from allotment_allocator.adapters.kube.nodes import (
    HOME_LABEL,
    LEASE_LABEL,
    RELEASE_LABEL,
    is_trainer,
)
from allotment_allocator.adapters.kube.states import (
    CLUSTER,
    NO_POD,
    TROUBLES,
    is_alive,
    job_view,
    judge,
)
from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.ports import Trainer, TrainerExit, TrainerOrder, TrainerState
from allotment_core.clock import Clock
from allotment_core.errors import (
    Aborted,
    AllotmentError,
    AlreadyExists,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from allotment_core.names import LeaseName, TenantName

log = logging.getLogger(__name__)

_PAUSES_S = (0.1, 0.3, 1.0, 3.0)
_CREATED_AT_ONCE = 8
"""More of them in flight are no faster, and keep the API server from its other work."""
_PASSING = (Unavailable, ResourceExhausted, Aborted)


@dataclass(slots=True)
class _Known:
    """A trainer whose Job there is, or is to be."""

    trainer: Trainer
    key: str
    """namespace/name of its Job."""
    seen: bool = False
    """Its Job was there."""
    uid: str = ""
    """Of its Job, once the API server has taken it."""
    made_at: float | None = None
    """Monotonic instant of that."""
    refusal: Wait | None = None
    """Why its Job can't make its pod."""
    admitted: bool = False
    """Its Job was there and not suspended."""
    ending: asyncio.Task[None] | None = None


async def _no_marks(_node: str, _tenant: TenantName) -> None:
    """Where nodes are not marked."""


class Namespaces(Protocol):
    """Where tenants' trainers run."""

    def name_of(self, tenant: TenantName) -> str: ...

    async def ensure(self, tenant: TenantName) -> None:
        """Makes the tenant's namespace, and what belongs into it, unless it is there."""
        ...

    def doubt(self, tenant: TenantName) -> None:
        """Looks at the namespace again before it is used next."""
        ...


class KubeLauncher:
    """Satisfies `domain.ports.Launcher`. `run` follows the cluster until it is cancelled."""

    def __init__(
        self,
        api: KubeApi,
        rules: jobs.JobRules,
        namespaces: Namespaces,
        pods: Informer,
        clock: Clock,
    ) -> None:
        """`pods` are all of the cluster; they call `pod_changed`."""
        self._api = api
        self._rules = rules
        self._namespaces = namespaces
        self._pods = pods
        self._clock = clock
        self.on_change: Callable[[], None] = lambda: None
        self.node_is_gone: Callable[[str], bool] = lambda _node: False
        """Whether there is no such node any more: nobody is left to end its pods."""
        self.keep_node: Callable[[str, TenantName], Awaitable[None]] = _no_marks
        """Marks a node for a tenant that is to have it alone, before its first Job is made."""
        selector = f"{RELEASE_LABEL}={rules.release},{HOME_LABEL}={rules.home},{LEASE_LABEL}"
        self.jobs = Informer(
            api, "/apis/batch/v1/jobs", job_view, self.job_changed, labelSelector=selector
        )
        self.tell: Callable[[Mapping[str, str], str, str, str], None] = lambda *_: None
        """Told what happens to Jobs, as `events.Events.tell` is."""
        self._known: dict[str, _Known] = {}
        self._pods_of: dict[str, set[str]] = {}
        """Keys of trainers' pods, by that of their Job."""
        self._jobs_of: dict[str, str] = {}
        self._ignored: set[str] = set()
        self._ids: dict[str, str] = {}
        """Keys of Jobs by trainer."""
        # Replaced as a whole, when it is asked for: transactions do in the database's threads.
        self._seen: tuple[int, tuple[Trainer, ...]] = (0, ())
        self._version = 0
        self._creating = asyncio.Semaphore(_CREATED_AT_ONCE)
        self._exits: list[TrainerExit] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # What is there

    @property
    def ready(self) -> bool:
        return self.jobs.synced.is_set() and self._pods.synced.is_set()

    @property
    def obstacle(self) -> str:
        return "the cluster's Jobs and pods are being listed"

    def trainers(self) -> Sequence[Trainer]:
        version, seen = self._seen
        if version != self._version:
            # A change meanwhile makes it outdated, not wrong: it is made again at the next call.
            version = self._version
            seen = tuple(known.trainer for known in list(self._known.values()))
            self._seen = version, seen
        return seen

    def take_exits(self) -> Sequence[TrainerExit]:
        exits, self._exits = self._exits, []
        return exits

    def resident_bytes(self, trainer_id: str) -> int:
        return 0

    # What to do

    def launch(self, order: TrainerOrder) -> None:
        trainer = Trainer(
            trainer_id=order.trainer_id,
            tenant=order.lease.tenant,
            slot_count=order.slot_count,
            place=order.place,
            lease=order.lease,
            epoch=order.epoch,
            state=TrainerState.STARTING,
            since_s=self._clock.monotonic(),
            alone=order.alone,
            suspended=bool(self._rules.queueing.of(order.lease.tenant)),
        )
        key = f"{self._namespaces.name_of(trainer.tenant)}/{jobs.job_name(order)}"
        older = self._known.get(key)
        if older is not None:
            self._forget(older, "another trainer takes its place")
        known = self._known[key] = _Known(trainer, key)
        self._ids[trainer.trainer_id] = key
        self._note()
        self._spawn(self._create(known, order))

    def hand_over(self, order: TrainerOrder) -> None:
        """No trainer in a pod is ever idle: it ends with its lease."""
        raise ValueError(f"{order.trainer_id} runs in a pod, which has one lease")

    def stop(self, trainer_id: str, grace_s: float) -> None:
        self._end(trainer_id, max(1, round(grace_s)))

    def kill(self, trainer_id: str) -> None:
        self._end(trainer_id, 1)

    async def close(self) -> None:
        """Leaves Jobs as they are: trainers outlive the allocator."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _create(self, known: _Known, order: TrainerOrder) -> None:
        tenant, node = known.trainer.tenant, order.place.node
        try:
            if order.alone and not order.place.is_expected:
                await self._insist(lambda: self.keep_node(node, tenant), known)
            await self._insist(lambda: self._namespaces.ensure(tenant), known)
            if known.trainer.state is not TrainerState.LEAVING:
                body = jobs.make_job(order, self._rules, order.resource)
                namespace = self._namespaces.name_of(tenant)
                known.uid = await self._insist(lambda: self._made(namespace, body), known)
                known.made_at = self._clock.monotonic()
                self._tell(known, NORMAL, "Granted", _granted(order))
        except AllotmentError as e:
            self._namespaces.doubt(tenant)
            if not known.seen:
                self._forget(known, f"its Job was refused: {e.message}")

    async def _made(self, namespace: str, body: Json) -> str:
        """Its uid. Raises: Unavailable while an older Job of that name goes."""
        path, name = f"/apis/batch/v1/namespaces/{namespace}/jobs", body["metadata"]["name"]
        try:
            async with self._creating:
                there = await self._api.create(path, body)
        except AlreadyExists:
            there = await self._api.get(f"{path}/{name}")
            labels = there["metadata"].get("labels") or {}
            mine = body["metadata"]["labels"][jobs.TRAINER_LABEL]
            if labels.get(jobs.TRAINER_LABEL) == mine:
                return str(there["metadata"].get("uid", ""))
            await self._api.delete(f"{path}/{name}", {"propagationPolicy": "Background"})
            raise Unavailable(
                f"an older Job {namespace}/{name} is in the way and is being removed",
                reason="JOB_IN_THE_WAY",
            ) from None
        return str(there["metadata"].get("uid", ""))

    async def _insist(self, work: Callable[[], Awaitable[Any]], known: _Known) -> Any:
        """Until the API server answers; what is in the way is the trainer's hint meanwhile."""
        attempt = 0
        while True:
            try:
                return await work()
            except _PASSING as e:
                log.warning(
                    "trainer's Job is held up", extra={"job": known.key, "reason": e.reason}
                )
                known.trainer = replace(known.trainer, hint=Wait(CLUSTER, e.message))
                self._note()
                await asyncio.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
                attempt += 1

    def _end(self, trainer_id: str, grace_s: int) -> None:
        known = self._known.get(self._ids.get(trainer_id, ""))
        if known is None:
            return
        if known.trainer.state is not TrainerState.LEAVING:
            self._move(known, TrainerState.LEAVING)
        if known.ending is None or known.ending.done():
            known.ending = self._spawn(self._delete(known, grace_s))

    async def _delete(self, known: _Known, grace_s: int) -> None:
        try:
            await self._remove_all(known, grace_s)
        except AllotmentError as e:
            log.warning(
                "trainer can't be removed; it is tried again",
                extra={"job": known.key, "reason": e.reason, "error": e.message},
            )

    async def _remove_all(self, known: _Known, grace_s: int) -> None:
        namespace, name = known.key.split("/")
        for key in tuple(self._pods_of.get(known.key, ())):
            pod = self._pods.objects.get(key)
            dead = pod is not None and bool(pod["node"]) and self.node_is_gone(pod["node"])
            path = f"/api/v1/namespaces/{namespace}/pods/{key.split('/')[1]}"
            await self._remove(path, {"gracePeriodSeconds": 0 if dead else grace_s}, known)
        job = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        there = await self._remove(job, {"propagationPolicy": "Background"}, known)
        if not there and not self._pods_of.get(known.key) and known.key not in self.jobs.objects:
            self._forget(known, "it was ended")

    async def _remove(self, path: str, options: Json, known: _Known) -> bool:
        """Whether there was one."""
        return bool(await self._insist(lambda: self._api.delete(path, options), known))

    # What the cluster says

    def job_changed(self, key: str) -> None:
        """A Job has changed; empty: all have been listed anew."""
        for each in (key,) if key else {*self._known, *self.jobs.objects}:
            self._look(each)
        self.on_change()

    def pod_changed(self, key: str) -> None:
        """A pod has changed; empty: all have been listed anew."""
        if not key:
            for each in {*self._jobs_of, *self._pods.objects}:
                self._file(each)
            self.job_changed("")
        elif (job := self._file(key)) is not None:
            self._look(job)
            self.on_change()

    def _file(self, key: str) -> str | None:
        """Puts a pod of ours with its Job, or takes one that has gone away; the Job's key."""
        pod = self._pods.objects.get(key)
        if pod is None:
            job = self._jobs_of.pop(key, None)
            if job is not None:
                self._pods_of[job].discard(key)
                if not self._pods_of[job]:
                    del self._pods_of[job]
            return job
        if not is_trainer(pod, self._rules.release, self._rules.home):
            return None
        job = f"{pod['namespace']}/{pod['labels'].get('batch.kubernetes.io/job-name', '')}"
        self._jobs_of[key] = job
        self._pods_of.setdefault(job, set()).add(key)
        return job

    def _look(self, key: str) -> None:
        """Brings what is known of a trainer in line with its Job and pods."""
        job = self.jobs.objects.get(key)
        known = self._known.get(key) or self._adopt(key, job)
        if known is None:
            return
        mine = known.trainer.trainer_id
        if job is not None and job["labels"].get(jobs.TRAINER_LABEL) != mine:
            job = None  # An older one of that name, on its way out.
        if job is not None:
            known.seen, known.uid = True, job["uid"]
        found = (self._pods.objects.get(pod) for pod in self._pods_of.get(key, ()))
        pods = [p for p in found if p and p["labels"].get(jobs.TRAINER_LABEL) == mine]
        self._find(known, pods)
        verdict = judge(job, pods, seen=known.seen)
        self._follow_queue(known, job, pods)
        if verdict.gone is not None:
            self._forget(known, verdict.gone, verdict.last_words, verdict.kind)
        elif verdict.running and known.trainer.state is TrainerState.STARTING:
            self._move(known, TrainerState.RUNNING)
        elif verdict.leaving and known.trainer.state is not TrainerState.LEAVING:
            self._move(known, TrainerState.LEAVING)
        else:
            self._hint(known, verdict.hint)

    def _find(self, known: _Known, pods: Sequence[Json]) -> None:
        """Where a trainer is whose node had still to come when its Job was made."""
        place = known.trainer.place
        node = next((pod["node"] for pod in pods if pod["node"]), "")
        if place.is_expected and node:
            known.trainer = replace(known.trainer, place=place._replace(node=node))
            self._note()

    def _hint(self, known: _Known, hint: Wait | None) -> None:
        if hint is not None and hint.reason == NO_POD and known.refusal is not None:
            hint = known.refusal
        before, known.trainer = known.trainer.hint, replace(known.trainer, hint=hint)
        if hint == before:
            return
        self._note()
        if hint is not None and hint.reason in TROUBLES:
            self._tell(known, WARNING, TROUBLES[hint.reason], hint.message)

    def _follow_queue(self, known: _Known, job: Json | None, pods: Sequence[Json]) -> None:
        """What the cluster's queue has decided about a trainer."""
        if job is None:
            return
        suspended = job["suspended"]
        if suspended != known.trainer.suspended:
            known.trainer = replace(known.trainer, suspended=suspended)
            self._note()
        known.admitted = known.admitted or not suspended
        if known.admitted and suspended and not any(is_alive(pod) for pod in pods):
            # Admitted once more it would start with an epoch that is over.
            self._end(known.trainer.trainer_id, 1)

    def _adopt(self, key: str, job: Json | None) -> _Known | None:
        """A Job that an earlier allocator has made; None: it has ended, or is none of ours."""
        if job is None:
            self._ignored.discard(key)
            return None
        if key in self._ignored or {"Complete", "Failed"} & job["conditions"].keys():
            return None
        trainer = self._trainer_of(job)
        if trainer is None:
            self._ignored.add(key)
            log.warning(
                "a Job with our labels is not understood and left alone", extra={"job": key}
            )
            return None
        known = self._known[key] = _Known(trainer, key, seen=True)
        self._ids[trainer.trainer_id] = key
        self._note()
        return known

    def _trainer_of(self, job: Json) -> Trainer | None:
        labels = job["labels"]
        try:
            tenant = TenantName(labels[jobs.TENANT_LABEL])
            lease = LeaseName(tenant, labels[LEASE_LABEL])
            trainer_id, epoch = labels[jobs.TRAINER_LABEL], int(labels[jobs.EPOCH_LABEL])
        except (KeyError, ValueError, InvalidArgument):
            return None
        if job["place"] is None or not job["slot_count"]:
            return None
        return Trainer(
            trainer_id=trainer_id,
            tenant=tenant,
            slot_count=job["slot_count"],
            place=job["place"],
            lease=lease,
            epoch=epoch,
            state=TrainerState.STARTING,
            since_s=self._clock.monotonic(),
            alone=job["alone"],
            suspended=job["suspended"],
        )

    def _move(self, known: _Known, state: TrainerState) -> None:
        known.trainer = replace(
            known.trainer, state=state, since_s=self._clock.monotonic(), hint=None
        )
        self._note()

    def _forget(self, known: _Known, cause: str, log_tail: str = "", kind: str = "") -> None:
        self._known.pop(known.key, None)
        self._ids.pop(known.trainer.trainer_id, None)
        self._exits.append(
            TrainerExit(trainer=known.trainer, cause=cause, log_tail=log_tail, kind=kind)
        )
        if known.trainer.state is not TrainerState.LEAVING:
            self._tell(known, WARNING, "TrainerEnded", f"{known.trainer.lease}: {cause}")
        self._note()
        self.on_change()

    def _tell(self, known: _Known, kind: str, reason: str, note: str) -> None:
        if known.uid:
            self.tell(job_reference(known.key, known.uid), kind, reason, note)

    # For those who look after what is stuck

    def job_of(self, lease: LeaseName, epoch: int) -> Mapping[str, str] | None:
        """A reference to the Job of a lease's trainer, if it is known."""
        key = f"{self._namespaces.name_of(lease.tenant)}/{jobs.name_for(lease, epoch)}"
        known = self._known.get(key)
        return job_reference(key, known.uid) if known is not None and known.uid else None

    def without_pod(self, for_s: float) -> Sequence[str]:
        """Keys of Jobs that were made so long ago and have no pod."""
        latest = self._clock.monotonic() - for_s
        return [
            known.key
            for known in self._known.values()
            if known.trainer.state is TrainerState.STARTING
            and known.made_at is not None
            and known.made_at <= latest
            and not self._pods_of.get(known.key)
            and not self.jobs.objects.get(known.key, {}).get("suspended")
        ]

    def explain(self, key: str, refusal: Wait | None) -> None:
        """Says why a Job has no pod; None: there is no Job any more."""
        known = self._known.get(key)
        if known is None:
            return
        if refusal is None:
            self._forget(known, "its Job was deleted")
        else:
            known.refusal = refusal
            self._look(key)

    def strays(self) -> Sequence[str]:
        """Keys of pods that are ours and that no Job of ours has."""
        return [
            pod
            for job, pods in self._pods_of.items()
            if job not in self._known and job not in self.jobs.objects
            for pod in pods
        ]

    def _note(self) -> None:
        self._version += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _granted(order: TrainerOrder) -> str:
    slots = "1 slot" if order.slot_count == 1 else f"{order.slot_count} slots"
    place = f"{order.place.pool}, node {order.place.node}"
    return f"{order.lease} has {slots} of {order.resource} in {place}, epoch {order.epoch}"
