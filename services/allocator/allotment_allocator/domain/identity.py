"""Whose trainer runs in a pod, and what pods' tokens are verified with."""

from dataclasses import dataclass
from typing import Protocol

from allotment_allocator.domain.board import Board
from allotment_core.errors import NotFound, Unavailable, clip
from allotment_core.names import LeaseName

RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class TrainerPod:
    """What a trainer's pod was made for."""

    lease: LeaseName
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTokenKeys:
    """What the cluster signs its pods' tokens with; issuer and keys are empty until known."""

    audience: str
    issuer: str = ""
    jwks: str = ""
    """A JSON Web Key Set."""


class TrainerPods(Protocol):
    """The cluster's pods, as far as they are trainers of this allocator."""

    async def find(self, namespace: str, uid: str) -> TrainerPod | None:
        """None: there is none (any more). Waits a moment for one that is not seen yet.

        Raises: Unavailable while the pods have not been listed.
        """
        ...


class PodKeys(Protocol):
    """The keys of the cluster that trainers run in."""

    async def fetch(self, unknown_key_id: str) -> PodTokenKeys:
        """The last that are known; asked for again before when a key of this id is not among them,
        unless they just were.
        """
        ...


class Identities:
    """Tells pods' trainers by the leases that they hold now."""

    def __init__(self, pods: TrainerPods | None, board: Board) -> None:
        """`pods` is None where trainers are processes of this machine."""
        self._pods = pods
        self._board = board

    async def identify(self, namespace: str, pod_uid: str) -> TrainerPod:
        """Raises: NotFound (NO_TRAINER, LEASE_ENDED), Unavailable (LEASE_UNKNOWN) for a pod that
        the books don't know yet.
        """
        pod = await self._pods.find(namespace, pod_uid) if self._pods is not None else None
        if pod is None:
            raise NotFound(
                f"no trainer of this allocator runs in pod {clip(pod_uid)} of namespace "
                f"{clip(namespace)}",
                reason="NO_TRAINER",
            )
        lease = self._board.live.get(pod.lease)
        if lease is not None and lease.epoch < pod.epoch:
            raise Unavailable(
                f"{pod.lease} is about to have epoch {pod.epoch}; try again in a moment",
                reason="LEASE_UNKNOWN",
                retry_after_s=RETRY_S,
            )
        if lease is None or lease.epoch != pod.epoch:
            raise NotFound(
                f"{pod.lease} is not held with epoch {pod.epoch} any more; its trainer has to "
                "leave",
                reason="LEASE_ENDED",
            )
        return pod
