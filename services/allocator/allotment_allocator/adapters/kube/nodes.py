"""Nodes and pods of the API server as the domain sees them."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from allotment_allocator.adapters.kube.api import Json
from allotment_allocator.domain.cluster import HOME_LABEL as HOME_LABEL
from allotment_allocator.domain.cluster import WORKLOADS, NodeView, Taint

PART_OF = "app.kubernetes.io/part-of"
OURS = "allotment"
LEASE_LABEL = "allotment.dev/lease"
DEDICATED_LABEL = "allotment.dev/dedicated"
"""Of a node that is a tenant's alone, with the tenant's id; its taint has the same key."""
NODE_RELEASE_LABEL = "allotment.dev/release"
"""Whose tenant that is, with HOME_LABEL."""
RELEASE_LABEL = "app.kubernetes.io/instance"
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")
_UNITS = (
    {"n": 1e-9, "u": 1e-6, "m": 1e-3, None: 1.0}
    | {unit: 1e3**power for power, unit in enumerate("kMGTPE", 1)}
    | {f"{unit}i": 2.0 ** (10 * power) for power, unit in enumerate("KMGTPE", 1)}
)
_ENDED = ("Succeeded", "Failed")
_ON_EVERY_NODE = ("DaemonSet", "Node")


def quantity(text: str) -> float:
    """`500m`, `16Gi`, `1e3`, `4` as a number. Raises: ValueError."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no quantity")
    return float(found[1]) * _UNITS[found[2]]


def trim_node(item: Json) -> Json:
    """What pools need of a node."""
    status, spec, metadata = item.get("status", {}), item.get("spec", {}), item["metadata"]
    ready: Json = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return {
        "name": metadata["name"],
        "labels": metadata.get("labels", {}),
        "allocatable": status.get("allocatable", {}),
        "ready": ready.get("status") == "True",
        "since": ready.get("lastTransitionTime") or metadata["creationTimestamp"],
        "cordoned": bool(spec.get("unschedulable")),
        "taints": spec.get("taints", []),
    }


def node_view(node: Json) -> NodeView:
    return NodeView(
        name=node["name"],
        labels=node["labels"],
        allocatable=_numbers(node["allocatable"]),
        ready=node["ready"],
        ready_since=datetime.fromisoformat(node["since"]),
        cordoned=node["cordoned"],
        taints=tuple(Taint(t["key"], t.get("value", ""), t["effect"]) for t in node["taints"]),
    )


def trim_pod(item: Json) -> Json:
    """What is needed of a pod: whose it is, where it is, what it asks for, how it fares."""
    metadata, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "uid": metadata["uid"],
        "on_every_node": any(
            owner["kind"] in _ON_EVERY_NODE for owner in metadata.get("ownerReferences", ())
        ),
        "labels": metadata.get("labels", {}),
        "leaving": "deletionTimestamp" in metadata,
        "node": spec.get("nodeName", ""),
        "requests": requests_of(spec),
        "phase": status.get("phase", "Pending"),
        "conditions": status.get("conditions", []),
        "containers": status.get("containerStatuses", []),
    }


def requests_of(spec: Json) -> dict[str, float]:
    """What a pod keeps from others: its containers' sum, or a larger one of its first steps."""
    total: Counter[str] = Counter()
    for container in spec.get("containers", ()):
        total.update(_numbers(container.get("resources", {}).get("requests", {})))
    for container in spec.get("initContainers", ()):
        wanted = _numbers(container.get("resources", {}).get("requests", {}))
        if container.get("restartPolicy") == "Always":
            total.update(wanted)
        else:
            total |= Counter(wanted)
    total.update(_numbers(spec.get("overhead", {})))
    return dict(total)


def is_trainer(pod: Json, release: str, home: str) -> bool:
    """Whether a pod is a trainer of the release in that namespace."""
    labels = pod["labels"]
    ours = labels.get(RELEASE_LABEL) == release and labels.get(HOME_LABEL) == home
    return ours and LEASE_LABEL in labels


def others_request(pod: Json, release: str, home: str) -> tuple[str, Counter[str]] | None:
    """The node of a pod that is not a trainer of ours, and what it asks for; `pods` counts it, and
    WORKLOADS unless every node has one.
    """
    if is_trainer(pod, release, home) or not pod["node"] or pod["phase"] in _ENDED:
        return None
    counted = {"pods": 1, WORKLOADS: 0 if pod["on_every_node"] else 1}
    return pod["node"], Counter({**pod["requests"], **counted})


def _numbers(quantities: Mapping[str, str]) -> dict[str, float]:
    return {name: quantity(str(amount)) for name, amount in quantities.items()}
