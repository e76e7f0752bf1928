"""Tells the cluster, as Events, what becomes of leases and nodes."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from allotment_allocator.adapters.kube.events import NORMAL, WARNING, node_reference
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.lease import Lease, LeaseState
from allotment_allocator.domain.pool import NodeState, Pool
from allotment_core.errors import ResourceExhausted
from allotment_core.names import LeaseName, TenantName

log = logging.getLogger(__name__)

_OF_NODES = {
    NodeState.LOST: (WARNING, "NodeLost", "it is not ready for too long: {} leases are taken back"),
    NodeState.AWAY: (WARNING, "NodeAway", "it is not ready: no new leases, its {} stay for now"),
    NodeState.CORDONED: (
        NORMAL,
        "NodeCordoned",
        "no new leases; its {} move away once there is room elsewhere",
    ),
    NodeState.OPEN: (NORMAL, "NodeOpen", "it takes new leases again; it has {}"),
}


class Teller(Protocol):
    def tell(self, about: Mapping[str, str], kind: str, reason: str, note: str) -> None: ...


class Chronicle:
    """`job_of`: a reference to the Job of a lease's trainer."""

    def __init__(
        self,
        events: Teller,
        board: Board,
        job_of: Callable[[LeaseName, int], Mapping[str, str] | None],
    ) -> None:
        self._events = events
        self._board = board
        self._job_of = job_of
        self._revoked: set[LeaseName] = set()
        self._states: dict[str, NodeState] | None = None

    async def run(self) -> None:
        """Follows leases until it is cancelled."""
        while True:
            try:
                async for seen in self._board.watch(TenantName.WILDCARD):
                    if seen.lease is not None:
                        self.lease_changed(seen.lease)
            except ResourceExhausted:
                await asyncio.sleep(1)
            except Exception:
                log.exception("following leases for Events broke")
                await asyncio.sleep(1)

    def lease_changed(self, lease: Lease) -> None:
        """Tells of a revocation, on the Job that it is about."""
        if lease.state is not LeaseState.REVOKING:
            self._revoked.discard(lease.name)
        elif lease.name not in self._revoked and lease.problem is not None:
            self._revoked.add(lease.name)
            job = self._job_of(lease.name, lease.epoch)
            if job is not None:
                self._events.tell(job, WARNING, "Revoked", lease.problem.message)

    def pools_changed(self, pools: tuple[Pool, ...]) -> None:
        """Tells of nodes that are in another state than before."""
        states = {
            node.name: node.state for pool in pools for node in pool.nodes if not node.expected
        }
        before, self._states = self._states, states
        changed = {n: s for n, s in states.items() if before is not None and before.get(n, s) != s}
        if not changed:
            return
        held = Counter(
            lease.place.node
            for lease in self._board.live.values()
            if lease.granted and lease.place is not None
        )
        for name, state in changed.items():
            kind, reason, note = _OF_NODES[state]
            self._events.tell(node_reference(name), kind, reason, note.format(held[name]))
