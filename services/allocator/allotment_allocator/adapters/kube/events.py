"""Kubernetes Events on what happens, for `kubectl describe`: nothing waits for them."""

import asyncio
import logging
import secrets
import socket
from collections import OrderedDict
from collections.abc import Mapping

from aiolimiter import AsyncLimiter

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.nodes import HOME_LABEL, OURS, PART_OF, RELEASE_LABEL
from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, PermissionDenied

log = logging.getLogger(__name__)

NORMAL, WARNING = "Normal", "Warning"
CONTROLLER = "allotment.dev/allocator"
_WAITING_MOST = 200
_BURST, _BURST_PER_S = 25, 5.0
"""25 at once, then 5 a second: a cluster keeps them all for an hour."""
_AGAIN_AFTER_S = 600.0
_REMEMBERED_MOST = 2000
_LONGEST_NOTE = 1000


def job_reference(key: str, uid: str) -> Json:
    """`key`: namespace/name."""
    namespace, name = key.split("/")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": namespace,
        "name": name,
        "uid": uid,
    }


def node_reference(name: str) -> Json:
    """As a kubelet refers to it: by its name in place of the uid."""
    return {"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}


class Events:
    """`tell` returns at once; what comes too fast, or again within ten minutes, is not told."""

    def __init__(self, api: KubeApi, release: str, home: str, clock: Clock) -> None:
        self._api = api
        self._labels = {PART_OF: OURS, RELEASE_LABEL: release, HOME_LABEL: home}
        self._clock = clock
        self._instance = socket.gethostname()
        self._waiting: asyncio.Queue[Json] = asyncio.Queue(_WAITING_MOST)
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._refused: set[str] = set()

    def tell(self, about: Mapping[str, str], kind: str, reason: str, note: str) -> None:
        """`reason`: a word in CamelCase that stays; `note`: a sentence."""
        if self._is_repeated((about["uid"], reason, note)) or self._waiting.full():
            return
        # An Event about what is in no namespace has to be in this one.
        namespace = about.get("namespace", "default")
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{about['name'][:200]}.{secrets.token_hex(6)}",
                "namespace": namespace,
                "labels": self._labels,
            },
            "eventTime": self._clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": reason,
            "reason": reason,
            "regarding": dict(about),
            "note": note[:_LONGEST_NOTE],
            "type": kind,
        }
        self._waiting.put_nowait(event)

    async def run(self) -> None:
        """Until cancelled."""
        limiter = AsyncLimiter(_BURST, _BURST / _BURST_PER_S)
        while True:
            event = await self._waiting.get()
            namespace = event["metadata"]["namespace"]
            if namespace in self._refused:
                continue
            async with limiter:
                await self._send(event, namespace)

    async def _send(self, event: Json, namespace: str) -> None:
        try:
            await self._api.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
        except PermissionDenied as e:
            self._refused.add(namespace)
            log.info("no Events are written", extra={"namespace": namespace, "error": e.message})
        except AllotmentError as e:
            log.info("an Event is lost", extra={"reason": e.reason, "error": e.message})

    def _is_repeated(self, key: tuple[str, str, str]) -> bool:
        now = self._clock.monotonic()
        last = self._told.pop(key, None)
        self._told[key] = now if last is None or now - last > _AGAIN_AFTER_S else last
        if len(self._told) > _REMEMBERED_MOST:
            self._told.popitem(last=False)
        return self._told[key] != now or last == now
