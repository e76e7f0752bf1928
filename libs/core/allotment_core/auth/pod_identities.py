"""Whose trainer runs in a pod: asked of the allocator, which sees the pods, and remembered for a
moment.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from allotment_core.auth.pod_tokens import Pod, PodClaims
from allotment_core.auth.principal import Principal, Role
from allotment_core.clock import Clock
from allotment_core.errors import AllotmentError, NotFound, Unauthenticated, Unavailable
from allotment_core.names import LeaseName

log = logging.getLogger(__name__)

CONFIRMED_S = 30.0
"""A trainer is asked about again after so long: its lease may have ended."""
REFUSED_S = 5.0
"""A pod that is nobody's is asked about again after so long."""
KEPT_S = 300.0
"""What was confirmed counts for so long while the allocator does not answer: without it no lease
ends."""
PATIENCE_S = 1.0
"""A call of a known trainer waits no longer for the next answer: the last one counts."""
RETRY_S = 1.0
_CACHE_LIMIT = 10_000

Held = tuple[LeaseName, int]
"""A lease and its epoch."""
Ask = Callable[[Pod], Awaitable[Held]]
"""Raises: NotFound: it is nobody's (any more); another AllotmentError: not known now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """All instants are monotonic."""

    held: Held | None
    """None: the pod is nobody's."""
    confirmed: float
    ask_again_at: float


class PodIdentities:
    """One pod is asked about once at a time, however many calls it makes. Lives in one loop."""

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._answers: OrderedDict[Pod, _Answer] = OrderedDict()
        self._asking: dict[Pod, asyncio.Task[_Answer | Unavailable]] = {}

    def find(self, claims: PodClaims) -> Principal | Awaitable[Principal]:
        """The trainer in the pod of a verified token, at once where that is known.

        Raises, at once or later: Unauthenticated (LEASE_ENDED): it is nobody's, or its lease has
            ended; Unavailable (TRAINER_UNKNOWN): the allocator does not answer.
        """
        answer = self._answers.get(claims.pod)
        if answer is not None and self._clock.monotonic() < answer.ask_again_at:
            return _principal(claims, answer)
        return self._asked(claims)

    async def _asked(self, claims: PodClaims) -> Principal:
        task = self._asking.get(claims.pod)
        if task is None:
            task = asyncio.create_task(self._look_up(claims.pod), name="whose pod")
            self._asking[claims.pod] = task
            task.add_done_callback(lambda _: self._asking.pop(claims.pod, None))
        known = self._answers.get(claims.pod)
        if known is not None and self._lasts(known):
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if not task.done():
                return _principal(claims, known)
        # A caller that gives up must not take the answer from the others.
        answer = await asyncio.shield(task)
        if isinstance(answer, Unavailable):
            raise answer
        return _principal(claims, answer)

    async def _look_up(self, pod: Pod) -> _Answer | Unavailable:
        before = self._answers.get(pod)
        try:
            held: Held | None = await self._ask(pod)
        except NotFound:
            held = None
        except AllotmentError as error:
            log.warning(
                "trainer not identified", extra={"pod_uid": pod.uid, "error": error.message}
            )
            return self._unanswered(pod, before)
        except Exception:
            log.exception("trainer not identified", extra={"pod_uid": pod.uid})
            return self._unanswered(pod, before)
        now = self._clock.monotonic()
        answer = _Answer(
            held=held,
            confirmed=now,
            ask_again_at=now + (REFUSED_S if held is None else CONFIRMED_S),
        )
        self._remember(pod, answer)
        return answer

    def _unanswered(self, pod: Pod, before: _Answer | None) -> _Answer | Unavailable:
        if before is not None and self._lasts(before):
            kept = replace(before, ask_again_at=self._clock.monotonic() + REFUSED_S)
            self._remember(pod, kept)
            return kept
        return Unavailable(
            "the allocator, which knows whose trainer runs in the token's pod, does not answer; "
            "try again in a moment",
            reason="TRAINER_UNKNOWN",
            retry_after_s=RETRY_S,
        )

    def _lasts(self, answer: _Answer) -> bool:
        """Whether it counts without a newer one."""
        return answer.held is not None and self._clock.monotonic() - answer.confirmed < KEPT_S

    def _remember(self, pod: Pod, answer: _Answer) -> None:
        self._answers[pod] = answer
        self._answers.move_to_end(pod)
        if len(self._answers) > _CACHE_LIMIT:
            self._answers.popitem(last=False)


def _principal(claims: PodClaims, answer: _Answer) -> Principal:
    """Raises: Unauthenticated (LEASE_ENDED)."""
    if answer.held is None:
        raise Unauthenticated(
            f"pod {claims.pod.uid} in {claims.pod.namespace} is no trainer of a lease that is "
            "held; its lease has ended or has a newer trainer, and it has to leave",
            reason="LEASE_ENDED",
        )
    lease, epoch = answer.held
    return Principal(
        subject=f"pod/{claims.pod.uid}",
        tenant=lease.tenant,
        role=Role.TRAINER,
        expires_at=claims.expires_at,
        lease=lease,
        lease_epoch=epoch,
    )
