"""The sampler in a thread of its own: Optuna takes long to import and milliseconds to ask."""

import asyncio
import concurrent.futures
import logging
from collections import OrderedDict

from allotment_controller.domain.prepared import Question
from allotment_search import MixedSampler, Proposal, TaskShape, load_optuna

log = logging.getLogger(__name__)

_SAMPLERS_KEPT = 64
_Key = tuple[str, TaskShape, frozenset[str]]
"""An experiment's name may be used again, for other data."""


class ThreadedSampling:
    """Implements the domain's Sampling; one thread for all experiments.

    A sampler that can't be loaded or breaks proposes nothing: trials are drawn at random then.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "sampler")
        self._samplers: OrderedDict[_Key, MixedSampler] = OrderedDict()
        self._warm = False

    def warm_up(self) -> None:
        if not self._warm:
            self._warm = True
            self._thread.submit(self._load)

    async def proposals(self, experiment: str, question: Question) -> list[Proposal]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._propose, experiment, question)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        try:
            load_optuna()
        except Exception as e:  # noqa: BLE001 (the thread's edge)
            log.warning("no sampler", extra={"error": str(e)})

    def _propose(self, experiment: str, question: Question) -> list[Proposal]:
        try:
            sampler = self._sampler(experiment, question)
            return sampler.proposals(
                question.history, question.count, question.seed, question.is_affordable
            )
        except Exception:
            log.exception("sampler failed", extra={"experiment": experiment})
            return []

    def _sampler(self, experiment: str, question: Question) -> MixedSampler:
        key = (experiment, question.shape, question.families)
        sampler = self._samplers.pop(key, None)
        if sampler is None:
            sampler = MixedSampler(question.grammar, question.shape, question.families)
        self._samplers[key] = sampler
        if len(self._samplers) > _SAMPLERS_KEPT:
            self._samplers.popitem(last=False)
        return sampler
