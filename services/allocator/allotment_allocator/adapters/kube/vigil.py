"""Looks after Jobs that are stuck where no watch tells why, and pods that nobody has."""

import asyncio
import logging
from typing import Any, Protocol

from allotment_allocator.adapters.kube.api import Json
from allotment_allocator.adapters.kube.launcher import KubeLauncher
from allotment_allocator.adapters.kube.states import REFUSED
from allotment_allocator.domain.lease import Wait
from allotment_core.errors import AllotmentError, NotFound

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 3.0
_WITHOUT_POD_S = 3.0
_ASKED_AGAIN_S = 15.0
_ASKED_AT_ONCE = 10
_LONGEST_TEXT = 400


class Api(Protocol):
    async def get(self, path: str, **params: str) -> Json: ...
    async def delete(self, path: str, body: Json | None = None) -> bool: ...


class Vigil:
    """One for a launcher."""

    def __init__(self, api: Api, launcher: KubeLauncher) -> None:
        self._api = api
        self._launcher = launcher
        self._strays: set[str] = set()
        self._asked: dict[str, int] = {}
        self._looks = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.look()
            except AllotmentError as e:
                log.info("stuck Jobs not looked after", extra={"reason": e.reason})
            except Exception:
                log.exception("looking after stuck Jobs failed")

    async def look(self) -> None:
        self._looks += 1
        if not self._launcher.ready:
            return
        stuck = self._launcher.without_pod(_WITHOUT_POD_S)
        self._asked = {key: look for key, look in self._asked.items() if key in stuck}
        pause = round(_ASKED_AGAIN_S / _LOOK_EVERY_S)
        due = [key for key in stuck if self._looks - self._asked.get(key, -pause) >= pause]
        for key in due[:_ASKED_AT_ONCE]:
            self._asked[key] = self._looks
            await self._ask(key)
        strays = set(self._launcher.strays())
        for key in sorted(strays & self._strays):
            namespace, name = key.split("/")
            log.warning("pod without a Job is removed", extra={"pod": key})
            await self._api.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")
        self._strays = strays

    async def _ask(self, key: str) -> None:
        """Why the Job can't make its pod, by the cluster's own Events about it."""
        namespace, name = key.split("/")
        try:
            await self._api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")
        except NotFound:
            self._launcher.explain(key, None)
            return
        selector = f"involvedObject.kind=Job,involvedObject.name={name},reason=FailedCreate"
        found = await self._api.get(
            f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector, limit="20"
        )
        items = found.get("items") or ()
        if items:
            self._launcher.explain(key, refused(max(items, key=_when), namespace))


def refused(event: Json, namespace: str) -> Wait:
    """The wait of a trainer whose pod may not be made."""
    message = str(event.get("message") or "")[:_LONGEST_TEXT]
    if "exceeded quota" in message:
        end = f"raise the ResourceQuota of namespace {namespace}, or wait for others to end"
    else:
        end = f"see who refuses pods in namespace {namespace}"
    return Wait(REFUSED, f"its pod may not be made ({message}); the cluster tries it again: {end}")


def _when(event: dict[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
