"""What a trainer's Job and pods say about it: pure functions of the API server's objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allotment_allocator.adapters.kube.api import Json
from allotment_allocator.domain.lease import Wait
from allotment_allocator.domain.pool import Place
from allotment_core.errors import InvalidArgument
from allotment_core.names import PoolName

POOL_ANNOTATION = "allotment.dev/pool"
NODE_ANNOTATION = "allotment.dev/node"
SLOTS_ANNOTATION = "allotment.dev/slots"
ALONE_ANNOTATION = "allotment.dev/alone"
_ENDED = ("Succeeded", "Failed")
_STATUSES = {
    64: "its settings can't be used",
    69: "its controller was silent for too long",
    70: "it could start no more trials",
    77: "its lease was refused as ended or another's",
}
"""services/trainer/README.md"""
_LONGEST_LOG = 2000
_LONGEST_TEXT = 400
STARTING = "STARTING"
IMAGE_PULL = "IMAGE_PULL"
UNSCHEDULABLE = "UNSCHEDULABLE"
CONTAINER = "CONTAINER"
SUSPENDED = "SUSPENDED"
NO_POD = "NO_POD"
CLUSTER = "CLUSTER"
OUT_OF_MEMORY, DISRUPTED, CRASHED = "OUT_OF_MEMORY", "DISRUPTED", "CRASHED"
"""How trainers end."""
REFUSED = "POD_REFUSED"
TROUBLES = {
    IMAGE_PULL: "ImagePull",
    UNSCHEDULABLE: "Unschedulable",
    CONTAINER: "ContainerFailed",
    REFUSED: "PodRefused",
}
"""What an Event is told about, and as what."""
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_SESSION = "it works as soon as its trainer has opened its session"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`gone`: why the trainer is known to be gone; None: it is not known to be."""

    gone: str | None = None
    kind: str = ""
    """What kind of end it was, where that is known."""
    last_words: str = ""
    """Of one that is gone: the end of its log."""
    running: bool = False
    leaving: bool = False
    hint: Wait | None = None
    """What a trainer that is not running yet waits for."""


def job_view(item: Json) -> Json:
    """What is needed of a Job: whose it is, what it holds, whether it has ended and why.

    `place` is None and `slot_count` 0 where its annotations don't say.
    """
    metadata, spec = item["metadata"], item.get("spec", {})
    conditions = item.get("status", {}).get("conditions") or []
    annotations = metadata.get("annotations") or {}
    slots = annotations.get(SLOTS_ANNOTATION, "")
    return {
        "uid": metadata.get("uid", ""),
        "labels": metadata.get("labels") or {},
        "place": _place(annotations),
        "slot_count": int(slots) if slots.isdecimal() and len(slots) < 10 else 0,
        "alone": annotations.get(ALONE_ANNOTATION) == "true",
        "suspended": bool(spec.get("suspend")),
        "leaving": "deletionTimestamp" in metadata,
        "conditions": {c["type"]: c for c in conditions if c.get("status") == "True"},
    }


def _place(annotations: Mapping[str, str]) -> Place | None:
    try:
        return Place(
            PoolName(annotations.get(POOL_ANNOTATION, "")), annotations.get(NODE_ANNOTATION, "")
        )
    except InvalidArgument:
        return None


def is_alive(pod: Json) -> bool:
    """Whether anything of it may still run."""
    return pod["phase"] not in _ENDED


def judge(job: Json | None, pods: Sequence[Json], *, seen: bool) -> Verdict:
    """`job` is None where there is none (any more: `seen`)."""
    alive = [pod for pod in pods if is_alive(pod)]
    ended = job is not None and ({"Complete", "Failed"} & job["conditions"].keys())
    if not alive and ((job is None and seen) or ended):
        kind, cause = _cause(job, pods)
        return Verdict(gone=cause, kind=kind, last_words=_last_words(pods))
    if any(pod["leaving"] for pod in alive) or (job is not None and job["leaving"]):
        return Verdict(leaving=True)
    if any(_runs(pod) for pod in alive):
        return Verdict(running=True)
    return Verdict(hint=_hint(job, alive))


def _runs(pod: Json) -> bool:
    return any("running" in c.get("state", {}) for c in pod["containers"])


def _cause(job: Json | None, pods: Sequence[Json]) -> tuple[str, str]:
    """The kind of a trainer's end and what is told of it, the most telling first."""
    for pod in pods:
        disrupted = _condition(pod, "DisruptionTarget")
        if disrupted is not None and disrupted.get("status") == "True":
            return DISRUPTED, _text("its pod was disrupted", disrupted)
        for container in pod["containers"]:
            end = container.get("state", {}).get("terminated")
            if end and end.get("reason") == "OOMKilled":
                return OUT_OF_MEMORY, "it used more memory than its pod may (OOMKilled)"
            if end and end.get("exitCode"):
                why = _STATUSES.get(end["exitCode"], "it ended")
                return CRASHED, f"{why} (exit status {end['exitCode']})"
    failed = job["conditions"].get("Failed") if job is not None else None
    if failed is not None:
        return "", _text("its Job failed", failed)
    return "", "it ended" if job is not None else "its Job was deleted"


def _last_words(pods: Sequence[Json]) -> str:
    """What the kubelet has kept of the log of a trainer that failed."""
    for pod in pods:
        for container in pod["containers"]:
            end = container.get("state", {}).get("terminated")
            if end and end.get("message"):
                return str(end["message"])[-_LONGEST_LOG:]
    return ""


def _hint(job: Json | None, pods: Sequence[Json]) -> Wait | None:
    """What a trainer that is not running waits for, and what would end the wait."""
    if job is not None and job["suspended"]:
        return Wait(SUSPENDED, "its Job is suspended; it goes on when the queue admits it")
    for pod in pods:
        for container in pod["containers"]:
            waiting = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in _IMAGE:
                why = _text("its image can't be pulled", waiting)
                return Wait(
                    IMAGE_PULL,
                    f"{why}; it is tried again: push the image, or mend its name (image.registry, "
                    "image.tag) or the pull secret",
                )
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                why = _text("its container can't start", waiting)
                return Wait(CONTAINER, f"{why}; the cluster tries it again")
        scheduled = _condition(pod, "PodScheduled")
        if scheduled is not None and scheduled.get("status") == "False":
            why = _text("its pod can't be scheduled", scheduled)
            end = "it goes on when its node has room, or when the autoscaler brings one"
            return Wait(UNSCHEDULABLE, f"{why}; {end}")
        if pod["node"]:
            return Wait(STARTING, f"its pod starts on {pod['node']}; {_SESSION}")
    if job is not None and not pods:
        return Wait(NO_POD, f"its Job has no pod yet; {_SESSION}")
    return None


def _condition(pod: Json, kind: str) -> dict[str, Any] | None:
    return next((c for c in pod["conditions"] if c["type"] == kind), None)


def _text(what: str, about: Json) -> str:
    why = ": ".join(str(about[k]) for k in ("reason", "message") if about.get(k))
    return f"{what} ({why})"[:_LONGEST_TEXT] if why else what
