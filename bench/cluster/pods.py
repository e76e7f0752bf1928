"""What a bench sees of the cluster's pods, with as little work for the API server as possible."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from lightkube.config.client_adapter import verify_cluster

from allotment_allocator.adapters.kube.api import connection_of

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class PodCounter:
    """Lists pods as a table without the objects: a tenth of the bytes."""

    def __init__(self) -> None:
        connection = connection_of(None)
        assert connection.user is not None
        tls = verify_cluster(connection.cluster, connection.user, connection.abs_file)
        address = urlsplit(connection.cluster.server)
        assert isinstance(tls, ssl.SSLContext), tls
        self._calls = http.client.HTTPSConnection(address.netloc, context=tls, timeout=60)

    def count(self, selector: str, phase: str = "") -> int:
        """Pods with these labels, in one phase if it is named."""
        path = f"/api/v1/pods?labelSelector={quote(selector)}&includeObject=None&resourceVersion=0"
        if phase:
            path += f"&fieldSelector=status.phase%3D{phase}"
        self._calls.request("GET", path, headers={"Accept": _TABLE})
        answer = self._calls.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(body[:300])
        table: dict[str, Any] = json.loads(body)
        return len(table["rows"] or ())


@dataclass(slots=True)
class Climb:
    """How many pods ran, second by second."""

    counts: list[tuple[float, int]]

    @property
    def seconds(self) -> float:
        """When the last one was seen Running."""
        return self.counts[-1][0]

    def reached(self, count: int) -> float:
        """When so many of them were."""
        return next(at for at, running in self.counts if running >= count)


def climb(
    selector: str, wanted: int, since: float, limit_s: float, watch: Callable[[], None]
) -> Climb:
    """Polls once a second until so many pods are Running. `watch` raises if it is in vain."""
    counter, counts = PodCounter(), []
    while True:
        running = counter.count(selector, "Running")
        now = time.monotonic() - since
        counts.append((now, running))
        if running >= wanted:
            return Climb(counts)
        watch()
        if now > limit_s:
            raise RuntimeError(f"{running} of {wanted} pods are Running after {now:.0f} s")
        time.sleep(max(0.0, 1.0 - (time.monotonic() - since - now)))
