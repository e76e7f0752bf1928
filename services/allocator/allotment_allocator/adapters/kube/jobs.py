"""Trainers as Jobs: one Job is one epoch of one lease, and is never tried again by the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from allotment_allocator.adapters.kube.api import Json
from allotment_allocator.adapters.kube.nodes import (
    HOME_LABEL,
    LEASE_LABEL,
    OURS,
    PART_OF,
    RELEASE_LABEL,
)
from allotment_allocator.adapters.kube.states import (
    ALONE_ANNOTATION,
    NODE_ANNOTATION,
    POOL_ANNOTATION,
    SLOTS_ANNOTATION,
)
from allotment_allocator.domain.cluster import DEDICATED, dedicated_to
from allotment_allocator.domain.pool import CPU, GPU
from allotment_allocator.domain.ports import TrainerOrder
from allotment_allocator.domain.queueing import Queueing
from allotment_core.names import LeaseName

EPOCH_LABEL = "allotment.dev/epoch"
TENANT_LABEL = "allotment.dev/tenant"
TRAINER_LABEL = "allotment.dev/trainer"
ACCOUNT = "allotment-trainer"
CA_MAP = "allotment-ca"
TOKEN_PATH = "/var/run/secrets/allotment/token"
CA_PATH = "/etc/allotment/ca.crt"
AUDIENCE = "allotment"
LONGEST_RUN_S = 7 * 24 * 3600
"""An end for Jobs that nobody ends: their lease has long expired."""
_LEAVING_S = 5
"""What its pod has beyond the time that a trainer takes to hand in its work."""
KEPT_S = 300
"""An ended Job is shown for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """What trainers' pods have in common."""

    release: str
    """Of the chart: two of them in one cluster don't see each other's Jobs."""
    home: str
    """The namespace of the services."""
    image: str
    pull_policy: str = "IfNotPresent"
    pull_secret: str = ""
    controller: str = ""
    """host:port of the controller's listener for trainers."""
    dataset: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    mig_prefix: str = "nvidia.com/mig-"
    grace_s: int = 30
    """Long enough to hand in a checkpoint."""
    cache_bytes: int = 8 << 30
    priority_class: str = ""
    runtime_class: str = ""
    cpu_limit_share: float = 0.0
    """Limit of the CPU of a pod without devices, in parts of its request; 0: it is the request."""
    tolerated: tuple[str, ...] = ()
    """Keys of more taints."""
    queueing: Queueing = field(default_factory=Queueing)
    """Kueue's LocalQueues: Jobs of tenants that have one start suspended and carry its name."""
    queue_priority_class: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def job_name(order: TrainerOrder) -> str:
    """Of the lease and its epoch: a Job that is created twice is one."""
    return name_for(order.lease, order.epoch)


def name_for(lease: LeaseName, epoch: int) -> str:
    return f"{lease.lease_id.lower()}-{epoch}"


def make_job(order: TrainerOrder, rules: JobRules, resource: str) -> Json:
    """The Job, for the namespace of its tenant."""
    labels = {
        PART_OF: OURS,
        "app.kubernetes.io/component": "trainer",
        RELEASE_LABEL: rules.release,
        HOME_LABEL: rules.home,
        TENANT_LABEL: order.lease.tenant.tenant_id,
        LEASE_LABEL: order.lease.lease_id,
        EPOCH_LABEL: str(order.epoch),
        TRAINER_LABEL: order.trainer_id,
    }
    queue = rules.queueing.of(order.lease.tenant)
    queued = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    if queue and rules.queue_priority_class:
        queued["kueue.x-k8s.io/priority-class"] = rules.queue_priority_class
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(order),
            "labels": {**labels, **queued},
            "annotations": {
                POOL_ANNOTATION: order.place.pool.pool_id,
                NODE_ANNOTATION: order.place.node,
                SLOTS_ANNOTATION: str(order.slot_count),
                **({ALONE_ANNOTATION: "true"} if order.alone else {}),
            },
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "suspend": bool(queue),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _FAILURE_POLICY,
            "ttlSecondsAfterFinished": KEPT_S,
            "activeDeadlineSeconds": LONGEST_RUN_S,
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {
                        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                        "karpenter.sh/do-not-disrupt": "true",
                    },
                },
                "spec": _pod(order, rules, resource),
            },
        },
    }


_FAILURE_POLICY: Json = {
    "rules": [
        {
            "action": "FailJob",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "trainer",
                "operator": "NotIn",
                "values": [0],
            },
        },
    ]
}
"""It only says why: either way the Job has failed, and the allocator makes the next one."""


def _pod(order: TrainerOrder, rules: JobRules, resource: str) -> Json:
    spec: Json = {
        "restartPolicy": "Never",
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": rules.grace_s,
        "tolerations": _tolerations(order, rules, resource),
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(order, rules, resource)],
        "volumes": _volumes(rules),
    }
    if order.selector:
        spec["nodeSelector"] = dict(order.selector)
    if not order.place.is_expected:
        spec["affinity"] = {"nodeAffinity": _on_node(order.place.node)}
    elif order.alone:
        spec["affinity"] = {"podAntiAffinity": _apart_from_others(order, rules)}
    if rules.pull_secret:
        spec["imagePullSecrets"] = [{"name": rules.pull_secret}]
    if rules.priority_class:
        spec["priorityClassName"] = rules.priority_class
    if rules.runtime_class and resource != CPU:
        spec["runtimeClassName"] = rules.runtime_class
    return spec


def _on_node(name: str) -> Json:
    """The node that the grant names: the scheduler would spread what the division has packed."""
    field_selector = {"key": "metadata.name", "operator": "In", "values": [name]}
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [field_selector]}]
        }
    }


def _apart_from_others(order: TrainerOrder, rules: JobRules) -> Json:
    """For a node that can't be marked beforehand, because nobody knows yet which it will be."""
    trainers = {
        PART_OF: OURS,
        "app.kubernetes.io/component": "trainer",
        RELEASE_LABEL: rules.release,
        HOME_LABEL: rules.home,
    }
    of_others = {
        "key": TENANT_LABEL,
        "operator": "NotIn",
        "values": [order.lease.tenant.tenant_id],
    }
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "namespaceSelector": {},
        "labelSelector": {"matchLabels": trainers, "matchExpressions": [of_others]},
    }
    return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}


def _tolerations(order: TrainerOrder, rules: JobRules, resource: str) -> list[Json]:
    devices = (rules.gpu_resource,) if resource != CPU else ()
    tolerations: list[Json] = [
        {"key": key, "operator": "Exists"} for key in (*devices, *rules.tolerated)
    ]
    mark = dedicated_to(rules.release, order.lease.tenant)
    kept = {"key": DEDICATED, "operator": "Equal", "value": mark, "effect": "NoSchedule"}
    return [*tolerations, kept]


def _container(order: TrainerOrder, rules: JobRules, resource: str) -> Json:
    millicores = round(1000 * (order.cores or order.threads))
    amounts = {"cpu": f"{millicores}m", "memory": str(order.memory_bytes)}
    if resource == GPU:
        amounts[rules.gpu_resource] = str(order.slot_count)
    elif resource != CPU:
        amounts[rules.mig_prefix + resource.removeprefix("mig-")] = str(order.slot_count)
    limits = dict(amounts)
    if resource == CPU and rules.cpu_limit_share > 1:
        limits["cpu"] = f"{round(millicores * rules.cpu_limit_share)}m"
    environment = {
        **rules.environment,
        "ALLOTMENT_TRAINER_SERVER": rules.controller,
        "ALLOTMENT_TRAINER_DATASET": rules.dataset,
        "ALLOTMENT_TRAINER_LEASE": str(order.lease),
        "ALLOTMENT_TRAINER_EPOCH": str(order.epoch),
        "ALLOTMENT_TRAINER_TOKEN_FILE": TOKEN_PATH,
        "ALLOTMENT_TRAINER_CA": CA_PATH,
        "ALLOTMENT_TRAINER_GRACE_S": str(max(1, rules.grace_s - _LEAVING_S)),
        "ALLOTMENT_TRAINER_THREADS": str(order.threads),
        "ALLOTMENT_TRAINER_MEMORY_BYTES": str(order.memory_bytes),
        "ALLOTMENT_TRAINER_CACHE_DIR": "/var/cache/allotment",
        "ALLOTMENT_TRAINER_CACHE_BYTES": str(rules.cache_bytes * 3 // 4),
        "ALLOTMENT_TRAINER_WORK_DIR": "/tmp/allotment",
        "HOME": "/tmp",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    return {
        "name": "trainer",
        "image": rules.image,
        "imagePullPolicy": rules.pull_policy,
        # The end of its log is what the lease says when trainers fail again and again.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "resources": {"requests": amounts, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": "/var/cache/allotment"},
            {"name": "work", "mountPath": "/tmp"},
            {"name": "token", "mountPath": "/var/run/secrets/allotment", "readOnly": True},
            {"name": "ca", "mountPath": "/etc/allotment", "readOnly": True},
        ],
    }


def _volumes(rules: JobRules) -> list[Json]:
    limit = str(rules.cache_bytes)
    token = {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    return [
        {"name": "cache", "emptyDir": {"sizeLimit": limit}},
        {"name": "work", "emptyDir": {"sizeLimit": limit}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "ca", "configMap": {"name": CA_MAP}},
    ]
