"""After a release was deleted: what the allocator has made in its time goes as well."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.jobs import ACCOUNT, CA_MAP, TENANT_LABEL
from allotment_allocator.adapters.kube.nodes import (
    DEDICATED_LABEL,
    HOME_LABEL,
    LEASE_LABEL,
    NODE_RELEASE_LABEL,
    OURS,
    PART_OF,
    RELEASE_LABEL,
)
from allotment_allocator.install import plan
from allotment_allocator.install.config import InstallConfig
from allotment_allocator.install.objects import ReleaseObjects
from allotment_core.errors import (
    Aborted,
    AllotmentError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

log = logging.getLogger(__name__)

COMPONENT = "app.kubernetes.io/component"
SELF = "uninstall"
_HOOKS = ("install", "test")
TRAINER_GRACE_S = 5
"""Trainers have nobody any more to hand a checkpoint to."""
_POLLED_EVERY_S = 0.5
_TRIES = 10
_ENDED = ("Succeeded", "Failed")
_PLACED = (
    ("/api/v1", "configmaps", CA_MAP),
    ("/api/v1", "serviceaccounts", ACCOUNT),
    ("/api/v1", "resourcequotas", "allotment"),
    ("/api/v1", "limitranges", "allotment"),
    ("/apis/networking.k8s.io/v1", "networkpolicies", "allotment"),
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", "allotment-allocator"),
)
"""What the allocator puts into a tenant's namespace."""


class Removal:
    """One run of it. What fails is said, and the rest is done all the same."""

    def __init__(self, api: KubeApi, objects: ReleaseObjects, config: InstallConfig) -> None:
        self._api = api
        self._objects = objects
        self._config = config
        self.failed: list[str] = []
        """What stays because it could not be removed."""
        self.going: list[str] = []
        """What is still on its way out."""
        self._under_way: set[str] = set()

    async def run(self) -> bool:
        """Whether all has gone or goes by itself; within the settings' time."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await asyncio.gather(
                    self._tenants(), self._nodes(), self._own(), self._left_by_hooks()
                )
                while await self._still_going():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_POLLED_EVERY_S)
        except TimeoutError:
            self.failed += [f"{what} (no answer in time)" for what in sorted(self._under_way)]
        if self.failed:
            log.error("removed in part; the rest has to be removed by hand", extra=self._left())
        else:
            log.info("removed", extra=self._left())
        return not self.failed

    def _left(self) -> dict[str, list[str]]:
        return {"left": self.failed, "still_going": self.going}

    async def _tenants(self) -> None:
        await self._try("tenants' namespaces", self._remove_namespaces)
        await asyncio.gather(*map(self._empty, self._config.made_beforehand))

    async def _empty(self, namespace: str) -> None:
        """It was made beforehand: what the allocator has put there goes, the rest stays."""
        await self._try(f"trainers in namespace {namespace}", self._end_trainers, namespace)
        for prefix, kind, name in (*_PLACED, *self._pull_secret()):
            path = f"{prefix}/namespaces/{namespace}/{kind}/{name}"
            await self._try(f"{kind}/{name} in namespace {namespace}", self._api.delete, path)

    def _pull_secret(self) -> list[tuple[str, str, str]]:
        name = self._config.pull_secret
        return [("/api/v1", "secrets", name)] if name else []

    async def _remove_namespaces(self) -> None:
        """Those that are not being removed yet."""
        listed = await self._namespaces()
        standing = [m["name"] for m in listed if "deletionTimestamp" not in m]
        await asyncio.gather(*map(self._remove_namespace, standing))

    async def _remove_namespace(self, name: str) -> None:
        await self._try(f"namespace {name}", self._api.delete, f"/api/v1/namespaces/{name}")
        await self._try(f"trainers in namespace {name}", self._end_trainers, name)

    async def _end_trainers(self, namespace: str) -> None:
        await self._delete_jobs_and_pods(namespace, self._selector(LEASE_LABEL))

    async def _delete_jobs_and_pods(self, namespace: str, selector: str) -> None:
        chosen = f"?labelSelector={quote(selector)}"
        # Jobs first: none makes another pod. Pods by themselves: with a shorter grace than theirs.
        for path, body in (
            (f"/apis/batch/v1/namespaces/{namespace}/jobs", {"propagationPolicy": "Background"}),
            (f"/api/v1/namespaces/{namespace}/pods", {"gracePeriodSeconds": TRAINER_GRACE_S}),
        ):
            await self._api.delete(f"{path}{chosen}", body)

    async def _nodes(self) -> None:
        if self._config.dedicated_nodes:
            await self._try("nodes' taints and labels", self._give_nodes_back)

    async def _give_nodes_back(self) -> None:
        release, home = self._config.release, self._config.namespace
        ours = f"{NODE_RELEASE_LABEL}={release},{HOME_LABEL}={home},{DEDICATED_LABEL}"
        for _ in range(_TRIES):
            listed = await self._api.get("/api/v1/nodes", labelSelector=ours)
            changed = await asyncio.gather(*map(self._give_back, listed.get("items") or ()))
            if all(changed):
                return
        raise Aborted("nodes change faster than they can be given back", reason="NODES_CHANGE")

    async def _give_back(self, node: Json) -> bool:
        """Whether it needs no other look: somebody may have changed the node meanwhile."""
        name, metadata = node["metadata"]["name"], node["metadata"]
        taints = [t for t in node["spec"].get("taints") or () if t["key"] != DEDICATED_LABEL]
        labels = dict.fromkeys((DEDICATED_LABEL, NODE_RELEASE_LABEL, HOME_LABEL))
        # Taints are written as a whole: nobody else's may get lost.
        marks = {"resourceVersion": metadata["resourceVersion"], "labels": labels}
        body = {"metadata": marks, "spec": {"taints": taints or None}}
        try:
            await self._api.patch(f"/api/v1/nodes/{name}", body)
        except Aborted:
            return False
        except (PermissionDenied, InvalidArgument) as e:
            self._say_failed(f"taint and labels of node {name}", e)
        except NotFound:
            pass
        return True

    async def _own(self) -> None:
        release = self._config.release
        # A volume that is kept can't be read without its password.
        passwords = {f"{release}-postgresql", f"{release}-minio"}
        stay = set() if self._config.delete_stores else passwords
        for name in plan.names(self._config):
            if name not in stay:
                await self._try(f"secret {name}", self._objects.remove, "secrets", name)
        if self._config.ca_config_map:
            await self._try(
                "the CA's ConfigMap", self._objects.remove, "configmaps", f"{release}-ca"
            )

    async def _left_by_hooks(self) -> None:
        """Jobs and pods of hooks that failed: they were kept so that people can see why."""
        home, release = self._config.namespace, self._config.release
        ours = f"{PART_OF}={OURS},{RELEASE_LABEL}={release},{COMPONENT} in ({', '.join(_HOOKS)})"
        await self._try("what failed hooks left", self._delete_jobs_and_pods, home, ours)

    async def _still_going(self) -> bool:
        try:
            # An allocator that was still there may have made one after the first look.
            await self._remove_namespaces()
            await self._look()
        except AllotmentError:
            self.going = self.going or ["unknown, since the API server did not answer"]
        return bool(self.going)

    async def _look(self) -> None:
        """What is not gone yet: pods that still run, and namespaces."""
        ours = f"{PART_OF}={OURS},{RELEASE_LABEL}={self._config.release}"
        listed = await self._api.get("/api/v1/pods", labelSelector=ours)
        # After the pods: who could make a namespace was gone then.
        found = [m["name"] for m in await self._namespaces()]
        places = {self._config.namespace, *self._config.made_beforehand, *found}
        pods = [item["metadata"] for item in listed.get("items") or () if _runs(item)]
        self.going = [f"namespace {name}" for name in found] + [
            f"pod {pod['namespace']}/{pod['name']}" for pod in pods if pod["namespace"] in places
        ]

    async def _namespaces(self) -> list[Json]:
        """The metadata of those that were made for tenants of this release."""
        ours = self._selector(TENANT_LABEL)
        listed = await self._api.get("/api/v1/namespaces", labelSelector=ours)
        spared = {*self._config.made_beforehand, self._config.namespace}
        found = [item["metadata"] for item in listed.get("items") or ()]
        return [metadata for metadata in found if metadata["name"] not in spared]

    def _selector(self, *more: str) -> str:
        release, home = self._config.release, self._config.namespace
        return ",".join((f"{RELEASE_LABEL}={release}", f"{HOME_LABEL}={home}", *more))

    async def _try(
        self, what: str, work: Callable[..., Awaitable[object]], *arguments: object
    ) -> None:
        self._under_way.add(what)
        try:
            await self._patiently(work, *arguments)
        except NotFound:
            pass
        except AllotmentError as e:
            self._say_failed(what, e)
        self._under_way.discard(what)

    async def _patiently(self, work: Callable[..., Awaitable[object]], *arguments: object) -> None:
        while True:
            try:
                await work(*arguments)
                return
            except (Unavailable, ResourceExhausted) as e:
                log.warning("tried again", extra={"error": e.message})
                await asyncio.sleep(_POLLED_EVERY_S)

    def _say_failed(self, what: str, error: AllotmentError) -> None:
        if what in self.failed:
            return
        self.failed.append(what)
        fields = {"what": what, "reason": error.reason, "error": error.message}
        log.warning("not removed", extra=fields)


def _runs(pod: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    ended = pod.get("status", {}).get("phase") in _ENDED
    return not ended and labels.get(COMPONENT) != SELF
