"""Trainers' pods by their uid, which is what a token names."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from allotment_allocator.adapters.kube.api import Json
from allotment_allocator.adapters.kube.informer import Informer
from allotment_allocator.adapters.kube.jobs import EPOCH_LABEL, TENANT_LABEL
from allotment_allocator.adapters.kube.nodes import LEASE_LABEL, is_trainer
from allotment_allocator.domain.identity import TrainerPod
from allotment_core.errors import InvalidArgument, Unavailable
from allotment_core.names import LeaseName, TenantName

_GONE_KEPT = 10_000
_SEEN_WITHIN_S = 3.0
"""A pod can call sooner than the watch tells of it."""


class InformedPods:
    """Satisfies `domain.identity.TrainerPods`. `pods` has to call `pod_changed`."""

    def __init__(
        self, pods: Informer, release: str, home: str, namespace_of: Callable[[TenantName], str]
    ) -> None:
        """`release`, `home`: of the services; `namespace_of`: where a tenant's trainers run."""
        self._pods = pods
        self._release = release
        self._home = home
        self._namespace_of = namespace_of
        self._keys: dict[str, str] = {}
        """Of the informer, by uid; those of pods that are gone may be among them."""
        self._uids: dict[str, str] = {}
        self._gone: dict[str, None] = {}
        """Uids of pods that were there, the last ones: nobody waits for them again."""
        self._awaited: dict[str, asyncio.Event] = {}

    def pod_changed(self, key: str) -> None:
        """A pod has changed; empty: all have been listed anew."""
        for each in (key,) if key else {*self._uids, *self._pods.objects}:
            self._file(each)

    async def find(self, namespace: str, uid: str) -> TrainerPod | None:
        if not self._pods.synced.is_set():
            raise Unavailable(
                "the cluster's pods are being listed; try again in a moment",
                reason="PODS_UNKNOWN",
                retry_after_s=1.0,
            )
        if uid not in self._keys and uid not in self._gone:
            await self._appears(uid)
        pod = self._pods.objects.get(self._keys.get(uid, ""))
        if pod is None or pod["uid"] != uid or pod["namespace"] != namespace:
            return None
        return trainer_of(pod, self._namespace_of)

    async def _appears(self, uid: str) -> None:
        there = self._awaited.setdefault(uid, asyncio.Event())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SEEN_WITHIN_S):
                    await there.wait()
        finally:
            self._awaited.pop(uid, None)

    def _file(self, key: str) -> None:
        pod = self._pods.objects.get(key)
        before = self._uids.pop(key, None)
        if before is not None:
            self._keys.pop(before, None)
            if pod is None or pod["uid"] != before:
                self._gone[before] = None
                if len(self._gone) > _GONE_KEPT:
                    del self._gone[next(iter(self._gone))]
        # Others' pods are not kept: a cluster has many, and no token of theirs means anything here.
        if pod is None or not is_trainer(pod, self._release, self._home):
            return
        self._uids[key] = pod["uid"]
        self._keys[pod["uid"]] = key
        if (awaited := self._awaited.get(pod["uid"])) is not None:
            awaited.set()


def trainer_of(pod: Json, namespace_of: Callable[[TenantName], str]) -> TrainerPod | None:
    """What the pod was made for; None unless it stands in its tenant's namespace."""
    labels = pod["labels"]
    try:
        lease = LeaseName(TenantName(labels.get(TENANT_LABEL, "")), labels.get(LEASE_LABEL, ""))
        epoch = int(labels.get(EPOCH_LABEL, ""))
    except (InvalidArgument, ValueError):
        return None
    if namespace_of(lease.tenant) != pod["namespace"]:
        return None
    return TrainerPod(lease, epoch)
