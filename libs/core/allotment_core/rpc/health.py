"""grpc.health.v1, in our own chain: garbage is refused as everywhere. Needs no token.

Names: "" is the process: it lives and is not draining. "ready": it serves, or would if the one that
leads fell away. A service's own name ("controller") and those of its proto services: it answers
calls.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from grpc_health.v1 import health_pb2

from allotment_core.errors import NotFound, clip
from allotment_core.rpc.methods import PUBLIC, Method, make_method

SERVICE = "grpc.health.v1.Health"
READY = "ready"
_Status = health_pb2.HealthCheckResponse


class Health:
    """The state of each service of a server."""

    def __init__(
        self, services: Iterable[str], known_as: Callable[[str], str] = lambda name: name
    ) -> None:
        """`known_as`: which of `services` stands for the name that a caller asks for."""
        self._known_as = known_as
        self._states: dict[str, Any] = {
            name: _Status.NOT_SERVING for name in ("", READY, *services)
        }
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool, *names: str) -> None:
        """Of these names, new ones too, or of all that there are."""
        for each in names or tuple(self._states):
            self._states[each] = _Status.SERVING if serving else _Status.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, _context: Any) -> _Status:
        state = self._states.get(self._known_as(request.service))
        if state is None:
            raise NotFound(f"no service {clip(request.service)!r} here", reason="UNKNOWN_SERVICE")
        return _Status(status=state)

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[_Status]:
        sent = None
        while True:
            changed = self._changed
            state = self._states.get(self._known_as(request.service), _Status.SERVICE_UNKNOWN)
            if state != sent:
                yield _Status(status=state)
                sent = state
            await changed.wait()

    def methods(self) -> Iterator[Method]:
        """For the chain."""
        service: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
        for descriptor in service.methods:
            behaviour = getattr(self, descriptor.name, None)
            if behaviour is not None:
                yield make_method(descriptor, behaviour, PUBLIC)
