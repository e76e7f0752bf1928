"""Nodes that a tenant has alone, marked for everybody: a taint and a label, exactly while it has
them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.informer import Informer
from allotment_allocator.adapters.kube.nodes import HOME_LABEL
from allotment_allocator.domain.cluster import DEDICATED, dedicated_to, is_dedicated_by
from allotment_allocator.domain.lease import Lease
from allotment_allocator.domain.ports import Trainer
from allotment_core.errors import Aborted, AllotmentError, FailedPrecondition, NotFound
from allotment_core.names import TenantName

log = logging.getLogger(__name__)

_LOOKED_EVERY_S = 0.5
_TRIES = 5
"""Others change nodes too: then it is read again."""


def nodes_alone(leases: Iterable[Lease], trainers: Iterable[Trainer]) -> dict[str, TenantName]:
    """Nodes where a tenant that is to be alone has leases or trainers, and nobody else."""
    there: dict[str, set[TenantName]] = defaultdict(set)
    wanted: dict[str, TenantName] = {}
    for lease in leases:
        if lease.granted and lease.place is not None:
            there[lease.place.node].add(lease.tenant)
            if lease.alone:
                wanted[lease.place.node] = lease.tenant
    for trainer in trainers:
        there[trainer.place.node].add(trainer.tenant)
        if trainer.alone:
            wanted[trainer.place.node] = trainer.tenant
    return {node: tenant for node, tenant in wanted.items() if len(there[node]) == 1}


class NodeMarks:
    """Keeps the marks of one release's nodes; those of others are never touched."""

    def __init__(
        self,
        api: KubeApi,
        release: str,
        home: str,
        nodes: Informer,
        wanted: Callable[[], Mapping[str, TenantName]],
    ) -> None:
        """`wanted`: the tenant of each node that one has alone now."""
        self._api = api
        self._release = release
        self._home = home
        self._nodes = nodes
        self._wanted = wanted
        self._kicked = asyncio.Event()

    def kick(self) -> None:
        """Looks again at once."""
        self._kicked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._kicked.clear()
            try:
                await self.look()
            except Exception:
                log.exception("marking nodes failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOKED_EVERY_S):
                    await self._kicked.wait()

    async def look(self) -> None:
        """Marks what is to be marked, and takes marks off what is not."""
        wanted = self._wanted()
        for node in tuple(self._nodes.objects.values()):
            name = node["name"]
            if self._mark_of(node["taints"], node["labels"]) == self._value(wanted.get(name)):
                continue
            try:
                await self._mark(name, wanted.get(name))
            except AllotmentError as e:
                log.warning(
                    "node can't be marked",
                    extra={"node": name, "reason": e.reason, "error": e.message},
                )

    async def ensure(self, node: str, tenant: TenantName) -> None:
        """The node is the tenant's alone when this returns.

        Raises: FailedPrecondition (NODE_TAKEN) when another release has it.
        """
        await self._mark(node, tenant)

    def _value(self, tenant: TenantName | None) -> str:
        return "" if tenant is None else dedicated_to(self._release, tenant)

    def _mark_of(self, taints: Iterable[Json], labels: Mapping[str, str]) -> str:
        """Our mark; empty: none, or that of another release."""
        taint = next((t.get("value", "") for t in taints if t["key"] == DEDICATED), "")
        value = taint or labels.get(DEDICATED, "")
        if not is_dedicated_by(value, labels.get(HOME_LABEL, ""), self._release, self._home):
            return ""
        return value if taint == labels.get(DEDICATED) else f"{value} in part"

    async def _mark(self, name: str, tenant: TenantName | None) -> None:
        value = self._value(tenant)
        for attempt in range(_TRIES):
            try:
                node = await self._api.get(f"/api/v1/nodes/{name}")
            except NotFound:
                return
            metadata, spec = node["metadata"], node.get("spec", {})
            labels, taints = metadata.get("labels") or {}, spec.get("taints") or []
            ours = self._mark_of(taints, labels)
            if ours == value:
                return
            other = next((t for t in taints if t["key"] == DEDICATED), None)
            if not ours and other is not None:
                raise FailedPrecondition(
                    f"node {name} is kept by {other.get('value')}, which is another release's; "
                    "another node is looked for",
                    reason="NODE_TAKEN",
                )
            # The others' order stays: an admission policy compares it.
            kept = [t for t in taints if t["key"] != DEDICATED]
            if value:
                kept.append({"key": DEDICATED, "value": value, "effect": "NoSchedule"})
            marks = {DEDICATED: value or None, HOME_LABEL: self._home if value else None}
            change = {
                "metadata": {"resourceVersion": metadata["resourceVersion"], "labels": marks},
                "spec": {"taints": kept or None},
            }
            try:
                await self._api.patch(f"/api/v1/nodes/{name}", change)
            except Aborted:
                if attempt == _TRIES - 1:
                    raise
                continue
            log.info("node marked", extra={"node": name, "dedicated": value})
            return
