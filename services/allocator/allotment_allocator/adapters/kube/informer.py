"""A copy of all objects of one kind that follows the API server."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_core.errors import AllotmentError, OutOfRange, Unavailable

log = logging.getLogger(__name__)

_PAGE = "500"
_SILENCE_S = 90.0
"""A watch is opened again after so long without even a bookmark (they come each minute)."""
_WATCH_S = (240, 300)
_PAUSES_S = (0.1, 0.3, 1.0, 3.0, 5.0)


class Informer:
    """List, then watch from that version on; after a break from the last version that was seen.

    Objects are kept as `trim` returns them, by namespace/name. `on_change` is called after each
    change with the object's key, and after each list with an empty one.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        trim: Callable[[Json], Json],
        on_change: Callable[[str], None],
        **params: str,
    ) -> None:
        self._api = api
        self._path = path
        self._params = params
        self._trim = trim
        self._on_change = on_change
        self._objects: dict[str, Json] = {}
        self._version = ""
        self.synced = asyncio.Event()
        self._watching = False
        self._broken_at = time.monotonic()

    @property
    def objects(self) -> Mapping[str, Json]:
        return MappingProxyType(self._objects)

    @property
    def behind_s(self) -> float:
        """For how long the copy has not followed the server."""
        return 0.0 if self._watching else time.monotonic() - self._broken_at

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            heard = False
            try:
                if not self._version:
                    await self._list()
                async for event in self._api.watch(
                    self._path,
                    _SILENCE_S,
                    self._opened,
                    resourceVersion=self._version,
                    allowWatchBookmarks="true",
                    timeoutSeconds=str(random.randint(*_WATCH_S)),
                    **self._params,
                ):
                    self._take(event)
                    heard, failures = True, 0
                if heard:
                    continue
            except OutOfRange:
                self._version = ""
            except AllotmentError as e:
                log.warning(
                    "watch interrupted",
                    extra={"path": self._path, "reason": e.reason, "error": e.message},
                )
            except Exception:
                log.exception("watch broke", extra={"path": self._path})
                self._version = ""
            finally:
                if self._watching:
                    self._watching, self._broken_at = False, time.monotonic()
            pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
            failures += 1
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))

    def _opened(self) -> None:
        self._watching = True

    async def _list(self) -> None:
        found: dict[str, Json] = {}
        more = ""
        while True:
            page = await self._api.get(
                self._path, limit=_PAGE, **({"continue": more} if more else {}), **self._params
            )
            for item in page.get("items") or ():
                found[_key(item)] = self._trim(item)
            more = page["metadata"].get("continue", "")
            if not more:
                break
        self._objects = found
        self._version = page["metadata"]["resourceVersion"]
        self.synced.set()
        self._on_change("")

    def _take(self, event: Json) -> None:
        item = event["object"]
        if event["type"] == "ERROR":
            if item.get("code") == 410:
                raise OutOfRange("the version is too old", reason="API_SERVER_410")
            self._version = ""
            raise Unavailable(
                f"the watch ended with {str(item.get('message'))[:200]}", reason="API_SERVER_ERROR"
            )
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            with suppress(KeyError):
                del self._objects[_key(item)]
        else:
            self._objects[_key(item)] = self._trim(item)
        self._on_change(_key(item))


def _key(item: Json) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
