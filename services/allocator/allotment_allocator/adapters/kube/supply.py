"""The pools of a cluster as its nodes and pods make them, kept up to date."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.informer import Informer
from allotment_allocator.adapters.kube.nodes import node_view, others_request, trim_node, trim_pod
from allotment_allocator.domain.cluster import NodeView, PoolRules, make_pools
from allotment_allocator.domain.pool import NodeState, Place, Pool
from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError

log = logging.getLogger(__name__)

_GATHER_S = 0.05
"""Changes that come together are made into pools together."""
_LOOK_EVERY_S = 1.0
_ASK_EVERY_S = 5.0
_SILENT_AFTER_S = 8.0
"""Without an answer for so long nothing is known of the present."""


class ClusterPools:
    """Follows nodes and pods. `pools` may be read from any thread."""

    def __init__(
        self,
        api: KubeApi,
        release: str,
        home: str,
        rules: PoolRules,
        clock: Clock,
        held: Callable[[], Collection[Place]] = tuple,
    ) -> None:
        """`release`, `home`: of the services; `held`: where leases are now."""
        self._api = api
        self._release = release
        self._home = home
        self._rules = rules
        self._clock = clock
        self._held = held
        self.nodes = Informer(api, "/api/v1/nodes", trim_node, self._node_changed)
        self.pods = Informer(api, "/api/v1/pods", trim_pod, self._pod_changed)
        self.on_pod: Callable[[str], None] = lambda _key: None
        """Told of each pod, as informers tell."""
        self.on_change: Callable[[], None] = lambda: None
        self.pools: tuple[Pool, ...] | None = None
        self.silent = False
        """Nothing has been heard of the API server for a while."""
        self._views: dict[str, NodeView] = {}
        self._requests: dict[str, tuple[str, Counter[str]]] = {}
        """Of pods that are not ours: their nodes and what they keep from us."""
        self._others: dict[str, Counter[str]] = {}
        self._changed = asyncio.Event()

    def is_gone(self, node: str) -> bool:
        """Whether the cluster is known to have no such node."""
        return self.nodes.synced.is_set() and f"/{node}" not in self.nodes.objects

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self.nodes.run, self.pods.run, self._follow, self._ask):
                tasks.create_task(work())

    async def _follow(self) -> None:
        await self.nodes.synced.wait()
        await self.pods.synced.wait()
        while True:
            self._changed.clear()
            try:
                self.look()
            except Exception:
                log.exception("the cluster's pools can't be made; the last ones stay")
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._changed.wait()
            await asyncio.sleep(_GATHER_S)

    async def _ask(self) -> None:
        """Notices an API server that has fallen silent while nothing happens."""
        while True:
            await asyncio.sleep(_ASK_EVERY_S)
            with suppress(AllotmentError):
                await self._api.get("/version")

    def look(self) -> None:
        """Makes the pools anew.

        While the API server is silent they are as they were when it was heard last, except that no
        node takes new leases: their trainers could not be started.
        """
        silent_s = max(self._clock.monotonic() - self._api.heard_at, self.nodes.behind_s)
        self.silent = silent_s > _SILENT_AFTER_S
        as_of = self._clock.now() - timedelta(seconds=silent_s if self.silent else 0)
        pools = make_pools(
            tuple(self._views.values()), self._others, self._rules, as_of, self._held()
        )
        if self.silent:
            pools = tuple(map(_waiting, pools))
        if pools != self.pools:
            self.pools = pools
            self.on_change()

    # What the cluster says

    def _node_changed(self, key: str) -> None:
        for each in (key,) if key else {*self._views, *self.nodes.objects}:
            node = self.nodes.objects.get(each)
            view = None if node is None else _view(node)
            if view == self._views.get(each):
                continue
            if view is None:
                self._views.pop(each, None)
            else:
                self._views[each] = view
            self._changed.set()

    def _pod_changed(self, key: str) -> None:
        for each in (key,) if key else {*self._requests, *self.pods.objects}:
            self._count(each)
        self.on_pod(key)

    def _count(self, key: str) -> None:
        pod = self.pods.objects.get(key)
        now = None if pod is None else others_request(pod, self._release, self._home)
        before = self._requests.get(key)
        if now == before:
            return
        if before is not None:
            node, requests = before
            self._others[node].subtract(requests)
            del self._requests[key]
        if now is not None:
            node, requests = now
            self._others.setdefault(node, Counter()).update(requests)
            self._requests[key] = now
        self._changed.set()


def _waiting(pool: Pool) -> Pool:
    """The pool while nothing can be started on it."""
    nodes = (
        node if node.state is NodeState.LOST else replace(node, state=NodeState.AWAY)
        for node in pool.nodes
    )
    return replace(pool, nodes=tuple(nodes))


def _view(node: Json) -> NodeView | None:
    try:
        return node_view(node)
    except (KeyError, ValueError) as e:
        log.warning("node is not understood", extra={"node": node.get("name"), "error": str(e)})
        return None
