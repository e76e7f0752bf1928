"""The settings of an allocator whose trainers run in a Kubernetes cluster."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allotment_allocator.domain.cluster import DeclaredPool
from allotment_allocator.domain.pool import CPU, GPU, MIG_PREFIX
from allotment_core.config import load
from allotment_core.errors import InvalidArgument, clip

PREFIX = "ALLOTMENT_CLUSTER_"
_POOL_FIELDS = {
    "price_per_slot_hour": float,
    "max_nodes": int,
    "slots_per_node": int,
    "resource": str,
    "product": str,
    "node_labels": dict,
}
_POSITIVE = (
    "qps",
    "burst",
    "slot_cores",
    "slot_threads",
    "slot_memory_bytes",
    "gpu_threads",
    "gpu_memory_bytes",
    "trainer_grace_s",
    "trainer_cache_bytes",
    "lost_after_s",
    "queue_pending_limit",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The environment has each as ALLOTMENT_CLUSTER_<NAME>; none of them set: no cluster.

    Raises: InvalidArgument (INVALID_CONFIG).
    """

    release: str
    """The chart's release: it begins tenants' namespaces, and labels all that is made."""
    namespace: str
    """Where the services themselves are."""
    account: str = ""
    """The allocator's own service account there; empty: <release>-allocator."""
    tenant_role: str = ""
    """The ClusterRole that it binds for itself in tenants' namespaces; empty: <release>-tenant."""
    tenant_namespaces: str = "{}"
    """JSON: namespaces made beforehand, by tenant. The allocator fills them and does not remove
    them.
    """
    kubeconfig: Path | None = None
    """Empty: the service account of this pod."""
    qps: float = 200.0
    """Calls of the API server a second; watches are not counted."""
    burst: int = 400
    """Calls at once."""

    trainer_image: str
    trainer_pull_policy: str = "IfNotPresent"
    trainer_pull_secret: str = ""
    """The one secret in tenants' namespaces, made from `trainer_pull_secret_file`; empty: none."""
    trainer_pull_secret_file: Path | None = None
    """Docker's configuration (JSON) that it holds; empty: it is there in namespaces that were made
    beforehand.
    """
    trainer_grace_s: int = 30
    """What a pod that is deleted has to hand in a checkpoint."""
    trainer_cache_bytes: int = 8 << 30
    """Limit of a pod's cache of data, and of its work folder."""
    trainer_priority_class: str = ""
    trainer_runtime_class: str = ""
    """For pods with GPUs."""
    trainer_environment: str = "{}"
    """JSON: more variables of the trainer's container."""
    largest_pod_memory: str = "1Ti"
    """Limit of a container in tenants' namespaces, as Kubernetes writes it."""
    tenant_quota: str = "{}"
    """JSON: more limits of the ResourceQuota in tenants' namespaces."""

    controller_address: str
    """host:port of the controller's listener for trainers, as a pod reaches it."""
    dataset_address: str
    """The same of the dataset service."""
    controller_pod_port: int = 8443
    """Where the controller's pods listen: policies see the port after service translation."""
    dataset_pod_port: int = 8443
    dns_namespace: str = "kube-system"
    """Of the cluster's DNS pods."""
    dns_ports: tuple[str, ...] = ("53",)
    """Where they listen (OpenShift: 5353)."""
    dns_addresses: tuple[str, ...] = ()
    """Ranges (CIDR) of DNS servers that are no pods, as a cache on each node is."""
    ca_file: Path
    """The authority (PEM) of both, copied to tenants' namespaces; read again when it changes."""

    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a whole device."""
    mig_prefix: str = "nvidia.com/mig-"
    """How the names of its slices begin."""
    gpu_threads: int = 4
    """Cores, and threads, that a trainer has beside each GPU or slice."""
    gpu_memory_bytes: int = 16 << 30
    """Memory that it has beside each."""
    pools: str = "{}"
    """JSON by pool: price_per_slot_hour; and for pools that an autoscaler keeps small max_nodes,
    slots_per_node, resource (gpu, cpu, mig-...), product, node_labels (those of its nodes; empty:
    allotment.dev/pool with the pool's name).
    """
    absence_s: float = 60.0
    """While no lease at all is renewed, since the controller is away, leases outlive their time to
    live by so long; their trainers work on meanwhile.
    """
    tolerated_taints: tuple[str, ...] = ()
    """Keys of taints that trainers tolerate, beside that which is called like the GPU resource."""
    lost_after_s: float = 40.0
    """A node that is not ready for so long is lost, unless most of its pool went with it."""

    slot_cores: float = 1.0
    """What a CPU slot asks for; fractions such as 0.25 are possible."""
    slot_cores_limit: float = 0.0
    """What it may use at most; 0: as much as it asks for."""
    slot_threads: int = 1
    """Threads of a trainer for each CPU slot."""
    slot_memory_bytes: int = 2 << 30
    """What a CPU slot asks for, which is also its limit."""

    dedicated_nodes: bool = False
    """Whether it may taint and label nodes for tenants of isolation DEDICATED."""

    queue: str = ""
    """The Kueue LocalQueue of tenants that `queues` doesn't name; empty: they have none."""
    queues: str = "{}"
    """JSON: Kueue LocalQueues by tenant."""
    queue_priority_class: str = ""
    """The WorkloadPriorityClass of queued Jobs."""
    queue_pending_limit: int = 100
    """Jobs of one queue that wait to be admitted at once, at most."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise _bad(name, f"is {getattr(self, name)}; it has to be above 0")
        if self.slot_cores_limit and self.slot_cores_limit < self.slot_cores:
            raise _bad(
                "slot_cores_limit",
                f"is {self.slot_cores_limit:g}, below SLOT_CORES ({self.slot_cores:g}); "
                "raise it, or leave it 0",
            )
        for name in ("release", "namespace", "trainer_image"):
            if not getattr(self, name):
                raise _bad(name, "is empty")
        for name in ("controller_address", "dataset_address"):
            if not getattr(self, name).rpartition(":")[2].isdigit():
                raise _bad(name, f"is {clip(getattr(self, name))!r}; it has to be host:port")
        for name in ("tenant_namespaces", "tenant_quota", "trainer_environment", "queues"):
            _texts(name, getattr(self, name))
        _ = self.declared_pools, self.prices, self.dns_port_numbers

    @property
    def service_account(self) -> str:
        return self.account or f"{self.release}-allocator"

    @property
    def bound_role(self) -> str:
        return self.tenant_role or f"{self.release}-tenant"

    @property
    def namespaces_by_tenant(self) -> Mapping[str, str]:
        return _texts("tenant_namespaces", self.tenant_namespaces)

    @property
    def quota(self) -> Mapping[str, str]:
        return _texts("tenant_quota", self.tenant_quota)

    @property
    def dns_port_numbers(self) -> tuple[int, ...]:
        for port in self.dns_ports:
            if not port.isdigit():
                raise _bad("dns_ports", f"has {clip(port)!r}, which is no port")
        return tuple(int(port) for port in self.dns_ports)

    @property
    def environment(self) -> Mapping[str, str]:
        return _texts("trainer_environment", self.trainer_environment)

    @property
    def queues_by_tenant(self) -> Mapping[str, str]:
        return _texts("queues", self.queues)

    @property
    def prices(self) -> Mapping[str, float]:
        """By pool, where they are known."""
        return {
            name: float(pool["price_per_slot_hour"])
            for name, pool in _pools(self.pools).items()
            if "price_per_slot_hour" in pool
        }

    @property
    def declared_pools(self) -> Mapping[str, DeclaredPool]:
        """Those that an autoscaler keeps small."""
        return {
            name: DeclaredPool(
                most_nodes=pool["max_nodes"],
                node_slots=pool.get("slots_per_node", 1),
                resource=pool.get("resource", GPU),
                product=pool.get("product", ""),
                node_labels=pool.get("node_labels", {}),
            )
            for name, pool in _pools(self.pools).items()
            if pool.get("max_nodes")
        }


def load_cluster(env: Mapping[str, str]) -> ClusterConfig | None:
    """None where no setting of a cluster is set. Raises: InvalidArgument (INVALID_CONFIG)."""
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(ClusterConfig)}
    return load(ClusterConfig, env, PREFIX) if known & env.keys() else None


def _pools(text: str) -> dict[str, dict[str, Any]]:
    pools = _mapping("pools", text)
    for name, pool in pools.items():
        where = f"pool {clip(name)!r}"
        if not isinstance(pool, dict):
            raise _bad("pools", f"has {where}, which is no object")
        for field, value in pool.items():
            kind = _POOL_FIELDS.get(field)
            if kind is None:
                known = ", ".join(_POOL_FIELDS)
                raise _bad("pools", f"has {clip(field)!r} in {where}; there are {known}")
            right = isinstance(value, int | float if kind is float else kind)
            if not right or isinstance(value, bool):
                raise _bad(
                    "pools", f"has {field} {clip(str(value))!r} in {where}; no {kind.__name__}"
                )
            if isinstance(value, int | float) and value < 0:
                raise _bad("pools", f"has {field} {value} in {where}; it has to be 0 or more")
        if pool.get("slots_per_node", 1) < 1:
            raise _bad("pools", f"has slots_per_node 0 in {where}; it has to be 1 or more")
        resource = pool.get("resource", GPU)
        if resource not in (CPU, GPU) and not resource.startswith(MIG_PREFIX):
            raise _bad("pools", f"has resource {clip(resource)!r} in {where}; cpu, gpu or mig-...")
    return pools


def _texts(name: str, text: str) -> dict[str, str]:
    found = _mapping(name, text)
    for key, value in found.items():
        if not isinstance(value, str):
            raise _bad(name, f"has {clip(str(value))!r} for {clip(key)!r}, which is no text")
    return found


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as e:
        raise _bad(name, f"is {clip(text)!r}, which is no JSON") from e
    if not isinstance(found, dict):
        raise _bad(name, f"is {clip(text)!r}, which is no JSON object")
    return found


def _bad(name: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{PREFIX}{name.upper()} {what}", reason="INVALID_CONFIG")
