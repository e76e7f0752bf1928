"""Trainers as Jobs of a Kubernetes cluster."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from allotment_allocator.adapters.kube.api import KubeApi, connection_of
from allotment_allocator.adapters.kube.chronicle import Chronicle
from allotment_allocator.adapters.kube.events import Events
from allotment_allocator.adapters.kube.jobs import JobRules
from allotment_allocator.adapters.kube.launcher import KubeLauncher
from allotment_allocator.adapters.kube.spaces import SpaceRules, TenantSpaces
from allotment_allocator.adapters.kube.supply import ClusterPools
from allotment_allocator.adapters.kube.taints import NodeMarks, nodes_alone
from allotment_allocator.adapters.kube.token_keys import ClusterKeys
from allotment_allocator.adapters.kube.trainer_pods import InformedPods
from allotment_allocator.adapters.kube.vigil import Vigil
from allotment_allocator.cluster_config import ClusterConfig
from allotment_allocator.domain.board import Board
from allotment_allocator.domain.cluster import PoolRules
from allotment_allocator.domain.desk import Desk
from allotment_allocator.domain.pool import Place, Pool
from allotment_allocator.domain.queueing import Queueing
from allotment_allocator.domain.staffing import StaffRules
from allotment_core.clock import Clock
from allotment_core.names import TenantName


class Cluster:
    """Satisfies `domain.site.Site`. Raises: InvalidArgument, FailedPrecondition (NO_CLUSTER)."""

    staffing = StaffRules(start_limit_s=math.inf, grace_s=30.0)
    """A pod may wait long for its image or its queue; the lease says what for."""

    def __init__(self, config: ClusterConfig, clock: Clock) -> None:
        self._api = KubeApi(connection_of(config.kubeconfig), config.qps, config.burst)
        self._pools = ClusterPools(
            self._api,
            config.release,
            config.namespace,
            pool_rules(config),
            clock,
            self._held_places,
        )
        self._spaces = TenantSpaces(
            self._api,
            space_rules(config),
            lambda: config.ca_file.read_text("ascii"),
            clock.monotonic,
        )
        self.launcher = KubeLauncher(
            self._api, job_rules(config), self._spaces, self._pools.pods, clock
        )
        self.trainer_pods = InformedPods(
            self._pools.pods, config.release, config.namespace, self._spaces.name_of
        )
        self.launcher.node_is_gone = self._pools.is_gone
        self._pools.on_pod = self._pod_changed
        self.pod_keys = ClusterKeys(self._api, clock)
        self.dedicated_nodes = config.dedicated_nodes
        self.queueing = queueing(config)
        self._marks = NodeMarks(
            self._api, config.release, config.namespace, self._pools.nodes, self._nodes_alone
        )
        if config.dedicated_nodes:
            self.launcher.keep_node = self._marks.ensure
        self._events = Events(self._api, config.release, config.namespace, clock)
        self.launcher.tell = self._events.tell
        self._board: Board | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pools(self) -> tuple[Pool, ...] | None:
        """None until nodes, pods and Jobs have been listed."""
        return self._pools.pools if self.launcher.ready else None

    def start(self, desk: Desk, board: Board, on_change: Callable[[], None]) -> None:
        async def tenants() -> set[TenantName]:
            return {tenant.name for tenant in await desk.read(lambda books: books.tenants())}

        chronicle = Chronicle(self._events, board, self.launcher.job_of)

        def pools_changed() -> None:
            if not self._pools.silent:
                chronicle.pools_changed(self._pools.pools or ())
            on_change()

        self._board = board
        self._pools.on_change, self.launcher.on_change = pools_changed, on_change
        works = [
            self._pools.run(),
            self.launcher.jobs.run(),
            Vigil(self._api, self.launcher).run(),
            self._events.run(),
            chronicle.run(),
            self._spaces.run(tenants),
            self.pod_keys.run(),
        ]
        if self.dedicated_nodes:
            works.append(self._keep_marks())
        self._tasks = [asyncio.create_task(work) for work in works]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.launcher.close()
        await self._api.close()

    def _pod_changed(self, key: str) -> None:
        self.trainer_pods.pod_changed(key)
        self.launcher.pod_changed(key)

    async def _keep_marks(self) -> None:
        # Before Jobs and pods are listed nobody knows which trainers there still are.
        await self.launcher.jobs.synced.wait()
        await self._pools.pods.synced.wait()
        await self._marks.run()

    def _nodes_alone(self) -> Mapping[str, TenantName]:
        leases = self._board.live.values() if self._board is not None else ()
        return nodes_alone(leases, self.launcher.trainers())

    def _held_places(self) -> Sequence[Place]:
        leases = self._board.live.values() if self._board is not None else ()
        return [lease.place for lease in leases if lease.granted and lease.place is not None]


def pool_rules(config: ClusterConfig) -> PoolRules:
    """How nodes become pools."""
    return PoolRules(
        gpu_resource=config.gpu_resource,
        mig_prefix=config.mig_prefix,
        threads_per_slot=config.slot_threads,
        cores_per_slot=config.slot_cores,
        memory_bytes_per_slot=config.slot_memory_bytes,
        gpu_threads=config.gpu_threads,
        gpu_memory_bytes=config.gpu_memory_bytes,
        prices=config.prices,
        declared=config.declared_pools,
        tolerated=(config.gpu_resource, *config.tolerated_taints),
        tolerated_by_all=config.tolerated_taints,
        lost_after_s=config.lost_after_s,
        release=config.release,
        home=config.namespace,
    )


def queueing(config: ClusterConfig) -> Queueing:
    """Whose trainers Kueue admits."""
    return Queueing(
        default=config.queue,
        by_tenant=config.queues_by_tenant,
        pending_limit=config.queue_pending_limit,
    )


def job_rules(config: ClusterConfig) -> JobRules:
    """What trainers' pods have in common."""
    return JobRules(
        release=config.release,
        home=config.namespace,
        image=config.trainer_image,
        pull_policy=config.trainer_pull_policy,
        pull_secret=config.trainer_pull_secret,
        controller=config.controller_address,
        dataset=config.dataset_address,
        gpu_resource=config.gpu_resource,
        mig_prefix=config.mig_prefix,
        grace_s=config.trainer_grace_s,
        cache_bytes=config.trainer_cache_bytes,
        priority_class=config.trainer_priority_class,
        runtime_class=config.trainer_runtime_class,
        cpu_limit_share=config.slot_cores_limit / config.slot_cores,
        tolerated=config.tolerated_taints,
        environment=config.environment,
        queueing=queueing(config),
        queue_priority_class=config.queue_priority_class,
    )


def space_rules(config: ClusterConfig) -> SpaceRules:
    """What tenants' namespaces have in common."""
    secret_file = config.trainer_pull_secret_file
    return SpaceRules(
        release=config.release,
        home=config.namespace,
        account=config.service_account,
        tenant_role=config.bound_role,
        made_beforehand=config.namespaces_by_tenant,
        controller_port=config.controller_pod_port,
        dataset_port=config.dataset_pod_port,
        dns_namespace=config.dns_namespace,
        dns_ports=config.dns_port_numbers,
        dns_addresses=config.dns_addresses,
        largest_pod_memory=config.largest_pod_memory,
        quota=config.quota,
        pull_secret=config.trainer_pull_secret if secret_file else "",
        pull_secret_json=secret_file.read_text("utf-8") if secret_file else "",
    )
