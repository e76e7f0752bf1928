"""Early stopping: what is reached per budget with it and without it, on the same trials.

    ALLOTMENT_TEST_DATA=folder python -m bench.halving [--sets phoneme,credit_g] [--trials 48]
                                                       [--rows 2000] [--curves curves.json]

Random pipelines are trained on real sets, eight folds each, and the score and CPU seconds after
every fold are kept (--curves reads or writes them). One slot then works through them in the same
order twice: every trial to its end, and by the rule that searches use; 20 orders. Printed are the
trials begun and the best final loss, as its regret against the best of all, at shares of the CPU
time that all trials need. Generated curves (fold scores around a true loss) show the rule at 1,000
trials, and how rarely it loses the best one.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from allotment_core.errors import AllotmentError
from allotment_learn.task import FoldReport, SplitSpec
from allotment_learn.trial import run_trial
from allotment_search import Grammar
from allotment_search.halving import Halving, Rung
from bench.portfolio import load
from bench.sets import tabular_sets

FOLDS = 8
SHARES = (0.125, 0.25, 0.5)
ORDERS = 20
LONGEST_TRIAL_S = 60.0
RULE = Halving()


@dataclass(frozen=True, slots=True)
class Curve:
    """A trial: the loss over the folds so far, and each fold's CPU seconds."""

    losses: tuple[float, ...]
    seconds: tuple[float, ...]


class _TooLong(Exception):
    pass


def curves_of(name: str, trials: int, row_limit: int) -> list[Curve]:
    """Random pipelines on a set; those that can't be trained are left out."""
    [entry] = tabular_sets([name])
    task, shape = load(entry, row_limit)
    split = SplitSpec(method=task.split.method, part_count=FOLDS, seed=0)
    grammar = Grammar.load("tabular")
    rng = np.random.default_rng(0)
    curves: list[Curve] = []
    while len(curves) < trials:
        derivation = grammar.derive(rng, None, replace(shape, fit_count=FOLDS))
        drawn = replace(task, split=split, pipeline=grammar.resolve(derivation))
        losses: list[float] = []
        marks = [time.process_time()]

        def report(
            fold: FoldReport, losses: list[float] = losses, marks: list[float] = marks
        ) -> None:
            losses.append(fold.score)
            marks.append(time.process_time())
            if marks[-1] - marks[0] > LONGEST_TRIAL_S:
                raise _TooLong

        try:
            with tempfile.TemporaryDirectory() as folder:
                run_trial(drawn, Path(folder), report)
        except (AllotmentError, _TooLong):
            continue
        curves.append(Curve(tuple(losses), tuple(np.diff(marks).tolist())))
    return curves


def generated(trials: int, rng: np.random.Generator) -> list[Curve]:
    """Curves whose folds scatter by a tenth of the spread between trials."""
    true = rng.lognormal(-1.0, 0.3, trials)
    noise = rng.normal(0.0, 0.1 * true.std(), (trials, FOLDS))
    # Folds are the same rows for all trials: most of what one does to a score it does to all.
    scores = true[:, None] + noise
    means = np.cumsum(scores, axis=1) / np.arange(1, FOLDS + 1)
    return [Curve(tuple(row), (1.0,) * FOLDS) for row in means.tolist()]


def replay(
    curves: Sequence[Curve], rule: Halving | None, budget_s: float
) -> tuple[int, float, float]:
    """Trials begun, the best final loss of those that ended in time, and the seconds spent."""
    rungs = {folds: Rung() for folds in (rule.rungs(FOLDS) if rule else ())}
    spent, best, finished, begun = 0.0, np.inf, 0, 0
    reached: dict[int, int] = {}
    while spent < budget_s:
        entry, at = None, 0
        for folds in sorted(rungs, reverse=True):
            entry = rungs[folds].promotable(rule) if rule else None
            if entry is not None:
                at = folds
                rungs[folds].resume(entry)
                break
        if entry is None and begun < len(curves):
            number, begun = begun, begun + 1
        elif entry is not None:
            number = entry[1]
        else:
            break
        curve = curves[number]
        for fold in range(at + 1, FOLDS + 1):
            spent += curve.seconds[fold - 1]
            reached[number] = fold
            rung = rungs.get(fold)
            if rule is None or rung is None:
                continue
            mark = (curve.losses[fold - 1], number)
            kept = finished < rule.grace or rung.keeps(mark, rule)
            rung.reach(mark)
            if not kept:
                rung.pause(mark)
                break
        else:
            if spent <= budget_s:
                finished += 1
                best = min(best, curve.losses[-1])
    return begun, best, spent


def compare(name: str, curves: list[Curve], orders: int) -> list[float]:
    """Prints a line for each budget; the ratios of begun trials."""
    total_s = sum(sum(c.seconds) for c in curves)
    best = min(c.losses[-1] for c in curves)
    worst = statistics.median(c.losses[-1] for c in curves)
    ratios = []
    for share in SHARES:
        rows = []
        for order in range(orders):
            drawn = np.random.default_rng(order).permutation(len(curves))
            shuffled = [curves[place] for place in drawn]
            rows.append(
                [
                    (begun, (loss - best) / max(worst - best, 1e-12))
                    for begun, loss, _ in (
                        replay(shuffled, None, share * total_s),
                        replay(shuffled, RULE, share * total_s),
                    )
                ]
            )
        begun = [[row[arm][0] for row in rows] for arm in (0, 1)]
        regret = [[min(1.0, row[arm][1]) for row in rows] for arm in (0, 1)]
        ratios.append(statistics.mean(begun[1]) / statistics.mean(begun[0]))
        print(
            f"{name:>20} {share:>6.1%} of {total_s:6.0f} s: trials "
            f"{statistics.mean(begun[0]):6.1f} -> {statistics.mean(begun[1]):6.1f} "
            f"(x {ratios[-1]:.2f}), regret {statistics.mean(regret[0]):.3f} -> "
            f"{statistics.mean(regret[1]):.3f}"
        )
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--curves", type=Path)
    arguments = parser.parse_args()
    stored = {}
    if arguments.curves is not None and arguments.curves.exists():
        stored = json.loads(arguments.curves.read_text())
    names = arguments.sets.split(",") if arguments.sets else [e.name for e in tabular_sets()][:2]
    ratios = []
    for name in names:
        if name not in stored:
            found = curves_of(name, arguments.trials, arguments.rows)
            stored[name] = [[c.losses, c.seconds] for c in found]
            if arguments.curves is not None:
                arguments.curves.write_text(json.dumps(stored))
        curves = [Curve(tuple(losses), tuple(seconds)) for losses, seconds in stored[name]]
        ratios += compare(name, curves, ORDERS)
    rng = np.random.default_rng(0)
    compare("generated x 1,000", generated(1000, rng), 5)
    lost = 0
    for _ in range(50):
        curves = generated(200, rng)
        lost += replay(curves, RULE, np.inf)[1] > min(c.losses[-1] for c in curves)
    print(f"generated x 200, no limit: the best trial was put off for good in {lost} of 50")
    print(f"trials begun per budget: x {statistics.mean(ratios):.2f} (limit x 1.3)")
    return 0 if statistics.mean(ratios) >= 1.3 else 1


if __name__ == "__main__":
    sys.exit(main())
