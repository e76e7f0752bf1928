"""Early stopping: what is reached per budget with it and without it, on the same trials.

    ALLOTMENT_TEST_DATA=folder python -m bench.halving [--sets phoneme,credit_g] [--trials 48]
                                                       [--rows 2000] [--curves curves.json]
                                                       [--hold-out] [--fit-rungs 2]

Random pipelines are trained on real sets, eight folds each or one hold-out, and the score and CPU
seconds after every fold and at the rungs within the first are kept (--curves reads or writes them).
One slot then works through them in the same order twice: every trial to its end, and by the rule
that searches use (with --fit-rungs within the first fit); 20 orders. Printed are the
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
from fractions import Fraction
from pathlib import Path

import numpy as np

from allotment_core.errors import AllotmentError
from allotment_learn.task import FoldReport, SplitMethod, SplitSpec
from allotment_learn.trial import run_trial
from allotment_search import Grammar
from allotment_search.halving import Amount, Halving, Level, Rung
from bench.portfolio import load
from bench.sets import tabular_sets

FOLDS = 8
HOLD_OUT_PARTS = 5
SHARES = (0.125, 0.25, 0.5)
ORDERS = 20
LONGEST_TRIAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A trial: the loss at each place where it may be judged, and the CPU seconds up to there."""

    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    amounts: tuple[Amount, ...]
    family: str = "linear"

    def again_s(self, place: int) -> float:
        """What is fitted again when it is taken up there: LightGBM keeps no state of a fit."""
        lost = self.amounts[place] < 1 and self.family == "lightgbm"
        return sum(self.seconds[: place + 1]) if lost else 0.0


class _TooLong(Exception):
    pass


def curves_of(name: str, trials: int, row_limit: int, hold_out: bool) -> list[Curve]:
    """Random pipelines on a set; those that can't be trained are left out."""
    [entry] = tabular_sets([name])
    task, shape = load(entry, row_limit)
    method = SplitMethod.HOLD_OUT if hold_out else SplitMethod.FOLDS
    split = SplitSpec(method=method, part_count=HOLD_OUT_PARTS if hold_out else FOLDS, seed=0)
    fit_count = 1 if hold_out else FOLDS
    grammar = Grammar.load("tabular")
    rng = np.random.default_rng(0)
    curves: list[Curve] = []
    while len(curves) < trials:
        derivation = grammar.derive(rng, None, replace(shape, fit_count=fit_count))
        drawn = replace(task, split=split, pipeline=grammar.resolve(derivation))
        losses: list[float] = []
        amounts: list[Amount] = []
        marks = [time.process_time()]

        def report(
            fold: FoldReport,
            losses: list[float] = losses,
            amounts: list[Amount] = amounts,
            marks: list[float] = marks,
        ) -> None:
            losses.append(fold.score)
            amounts.append(Fraction(1, fold.fit_rung) if fold.fit_rung else fold.finished_folds)
            marks.append(time.process_time())
            if marks[-1] - marks[0] > LONGEST_TRIAL_S:
                raise _TooLong

        try:
            with tempfile.TemporaryDirectory() as folder:
                run_trial(drawn, Path(folder), report, fit_rungs=Halving().fit_rungs)
        except (AllotmentError, _TooLong):
            continue
        seconds = tuple(np.diff(marks).tolist())
        curves.append(Curve(tuple(losses), seconds, tuple(amounts), drawn.pipeline.family))
    return curves


def generated(trials: int, rng: np.random.Generator) -> list[Curve]:
    """Curves whose folds scatter by a tenth of the spread between trials."""
    true = rng.lognormal(-1.0, 0.3, trials)
    noise = rng.normal(0.0, 0.1 * true.std(), (trials, FOLDS))
    # Folds are the same rows for all trials: most of what one does to a score it does to all.
    scores = true[:, None] + noise
    means = np.cumsum(scores, axis=1) / np.arange(1, FOLDS + 1)
    amounts = tuple(range(1, FOLDS + 1))
    return [Curve(tuple(row), (1.0,) * FOLDS, amounts) for row in means.tolist()]


def replay(
    curves: Sequence[Curve], rule: Halving | None, budget_s: float
) -> tuple[int, float, float]:
    """Trials begun, the best final loss of those that ended in time, and the seconds spent."""
    last = max(curve.amounts[-1] for curve in curves)
    rungs = {level: Rung() for level in (rule.levels(int(last)) if rule else ())}
    spent, best, finished, begun = 0.0, np.inf, 0, 0
    while spent < budget_s:
        entry, at = None, -1
        for level in reversed(rungs):
            entry = rungs[level].promotable(rule) if rule else None
            if entry is not None:
                at = curves[entry[1]].amounts.index(level.amount)
                spent += curves[entry[1]].again_s(at)
                rungs[level].resume(entry)
                break
        if entry is None and begun < len(curves):
            number, begun = begun, begun + 1
        elif entry is not None:
            number = entry[1]
        else:
            break
        curve = curves[number]
        for place in range(at + 1, len(curve.amounts)):
            spent += curve.seconds[place]
            where = Level.of(curve.family, curve.amounts[place])
            rung = rungs.get(where) if where is not None else None
            if rule is None or rung is None:
                continue
            mark = (curve.losses[place], number)
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


def compare(name: str, curves: list[Curve], rule: Halving, orders: int) -> list[float]:
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
                        replay(shuffled, rule, share * total_s),
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
    parser.add_argument("--hold-out", action="store_true")
    parser.add_argument("--fit-rungs", type=int, default=Halving().fit_rung_count)
    arguments = parser.parse_args()
    rule = Halving(fit_rung_count=arguments.fit_rungs)
    stored = {}
    if arguments.curves is not None and arguments.curves.exists():
        stored = json.loads(arguments.curves.read_text())
    names = arguments.sets.split(",") if arguments.sets else [e.name for e in tabular_sets()][:2]
    ratios = []
    for name in names:
        if name not in stored:
            found = curves_of(name, arguments.trials, arguments.rows, arguments.hold_out)
            stored[name] = [[c.losses, c.seconds, [*map(str, c.amounts)], c.family] for c in found]
            if arguments.curves is not None:
                arguments.curves.write_text(json.dumps(stored))
        curves = [
            Curve(tuple(losses), tuple(seconds), tuple(map(Fraction, amounts)), family)
            for losses, seconds, amounts, family in stored[name]
        ]
        ratios += compare(name, curves, rule, ORDERS)
    rng = np.random.default_rng(0)
    compare("generated x 1,000", generated(1000, rng), rule, 5)
    lost = 0
    for _ in range(50):
        curves = generated(200, rng)
        lost += replay(curves, rule, np.inf)[1] > min(c.losses[-1] for c in curves)
    print(f"generated x 200, no limit: the best trial was put off for good in {lost} of 50")
    limit = 1.0 if arguments.hold_out else 1.3
    print(f"trials begun per budget: x {statistics.mean(ratios):.2f} (limit x {limit})")
    return 0 if statistics.mean(ratios) >= limit else 1


if __name__ == "__main__":
    sys.exit(main())
