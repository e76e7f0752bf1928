"""TPE beside random draws at the same number of trials, beyond the portfolio.

    python -m bench.samplers [--trials 40] [--seeds 3] [--rows 400]

On scikit-learn's own sets, or those of ALLOTMENT_TEST_DATA: 3-fold cross-validated losses of the
plain defaults are given to both; then each proposes one trial after the other. Printed is the share
of the way from the best default to the best loss that anybody found, averaged over sets and seeds,
after a number of trials.
"""

import argparse
import sys

import numpy as np

from allotment_learn.task import TrialTask
from allotment_search import (
    Derivation,
    Grammar,
    History,
    MixedSampler,
    Proposal,
    TaskShape,
    next_random,
    portfolio,
)
from bench.portfolio import load, loss_of
from bench.sets import tabular_sets

GRAMMAR = Grammar.load("tabular")
ARMS = ("random", "tpe")


class Losses:
    """Cross-validated losses of one set, each computed once."""

    def __init__(self, task: TrialTask) -> None:
        self._task = task
        self._known: dict[Derivation, float] = {}

    def __getitem__(self, derivation: Derivation) -> float:
        if derivation not in self._known:
            self._known[derivation] = loss_of(self._task, derivation)[0]
        return self._known[derivation]


def search(
    arm: str, losses: Losses, shape: TaskShape, families: list[str], trials: int, seed: int
) -> list[float]:
    """The best loss after the defaults, and after each trial."""
    history = History()
    best = np.inf
    for derivation in portfolio(GRAMMAR, shape, families):
        history.add(derivation)
        history.end(len(history), _finite(losses[derivation]))
        best = min(best, losses[derivation])
    sampler = MixedSampler(GRAMMAR, shape, families)
    found = [best]
    for _ in range(trials):
        proposal: Proposal | None
        if arm == "random":
            proposal = next_random(GRAMMAR, shape, families, history, seed)
        else:
            proposal = next(iter(sampler.proposals(history.view(), 1, seed)), None)
        if proposal is None:
            break
        history.add(proposal.derivation)
        loss = losses[proposal.derivation]
        history.end(len(history), _finite(loss))
        best = min(best, loss)
        found.append(best)
    return found


def _finite(loss: float) -> float | None:
    return loss if np.isfinite(loss) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400)
    arguments = parser.parse_args()
    marks = [m for m in (10, 20, 40, 80, 160) if m <= arguments.trials]
    shares: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    for entry in tabular_sets(arguments.sets):
        task, shape = load(entry, arguments.rows)
        losses = Losses(task)
        families = [f for f in GRAMMAR.families if f not in ("constant", "mlp")]
        runs = {
            arm: [
                search(arm, losses, shape, families, arguments.trials, seed)
                for seed in range(arguments.seeds)
            ]
            for arm in ARMS
        }
        start = runs["tpe"][0][0]
        reached = min(run[-1] for found in runs.values() for run in found)
        way = max(start - reached, 1e-12)
        for arm in ARMS:
            shares[arm] += [[(start - run[m]) / way for m in marks] for run in runs[arm]]
        ends = {arm: np.mean([run[-1] for run in runs[arm]]) for arm in ARMS}
        print(
            f"{entry.name:22} defaults {start:.4f}, "
            + ", ".join(f"{arm} {loss:.4f}" for arm, loss in ends.items()),
            flush=True,
        )
    print("share of the way after" + "".join(f"{m:7}" for m in marks) + "  trials")
    for arm in ARMS:
        print(f"{arm:22}" + "".join(f"{x:7.2f}" for x in np.mean(shares[arm], axis=0)))
    ours, control = (float(np.mean(shares[arm], axis=0)[-1]) for arm in ("tpe", "random"))
    print(f"ratio {ours / max(control, 1e-12):.2f}")
    return 0 if ours >= 0.9 * control else 1


if __name__ == "__main__":
    sys.exit(main())
