"""What one TPE suggestion costs at 10,000 finished trials, beside Optuna's own.

    python -m bench.suggest [--history 10000] [--repeat 200]

Ours: a view of the history and one proposal, as the controller asks for it, all families allowed.
Optuna: `study.ask` of one family's space with as many parameters, on an in-memory study of as many
trials. Both in this process, one after the other.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

from allotment_search import Grammar, History, MixedSampler, TaskShape
from bench.suggest.space import distributions_of

LIMIT_S = 0.05
GRAMMAR = Grammar.load("tabular")
SHAPE = TaskShape(task="binary", row_count=10_000, numeric_count=12, category_count=6)


def ours(count: int, rng: np.random.Generator) -> Callable[[], Any]:
    history = History()
    while len(history) < count:
        derivation = GRAMMAR.derive(rng, None, SHAPE)
        if derivation not in history:
            history.add(derivation)
            history.end(len(history), float(rng.random()))
    sampler = MixedSampler(GRAMMAR, SHAPE, GRAMMAR.families)

    def suggest() -> None:
        (proposal,) = sampler.proposals(history.view(), 1, 0)
        history.add(proposal.derivation)
        history.end(len(history), float(rng.random()))

    return suggest


def optunas(count: int, rng: np.random.Generator) -> Callable[[], Any]:
    space = distributions_of(GRAMMAR, "lightgbm", SHAPE)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.add_trials(
        optuna.trial.create_trial(
            params={
                name: float(rng.random())
                if isinstance(d, optuna.distributions.FloatDistribution)
                else d.choices[int(rng.integers(len(d.choices)))]  # type: ignore[attr-defined]
                for name, d in space.items()
            },
            distributions=space,
            value=float(rng.random()),
        )
        for _ in range(count)
    )

    def suggest() -> None:
        study.tell(study.ask(space), float(rng.random()))

    return suggest


def timed(suggest: Callable[[], Any], repeat: int) -> list[float]:
    suggest()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        suggest()
        times.append(time.perf_counter() - started)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--history", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=200)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(0)
    mine = timed(ours(arguments.history, rng), arguments.repeat)
    theirs = timed(optunas(arguments.history, rng), max(10, arguments.repeat // 10))
    for label, times in (("ours", mine), ("Optuna's TPE", theirs)):
        print(
            f"{label:13} median {np.median(times) * 1e3:7.1f} ms,"
            f" p99 {np.quantile(times, 0.99) * 1e3:7.1f} ms"
        )
    p99 = float(np.quantile(mine, 0.99))
    ratio = float(np.median(theirs) / np.median(mine))
    print(f"ratio of medians {ratio:.1f}; p99 {p99 * 1e3:.1f} ms, limit {LIMIT_S * 1e3:.0f} ms")
    return 0 if p99 <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
