"""Kill -9 of each service, at random moments of running searches.

    python -m bench.kills [--kills 20] [--budget 60] [--seed 0]

Five services, a gateway and trainers in processes of their own, on PostgreSQL and an S3 server
(`make services`). Searches run one after another; after each pause one of the targets is killed,
until each has died so many times. No finished trial may be lost, changed or doubled, and every
search ends with a model. The baseline is a search of the same budget that is left alone.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from allotment_testkit.kills import TARGETS, Tally, killed_search
from allotment_testkit.services_system import services_system

ROWS, COLUMNS = 800, 6
PAUSE_S = (0.5, 9.0)


def write_rows(path: Path) -> None:
    rng = random.Random(0)
    lines = [",".join([*(f"x{i}" for i in range(COLUMNS)), "y"])]
    for _ in range(ROWS):
        row = [rng.gauss(0, 1) for _ in range(COLUMNS)]
        label = "pos" if row[0] + row[1] * row[2] + rng.gauss(0, 0.5) > 0 else "neg"
        lines.append(",".join([*(f"{value:.4f}" for value in row), label]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _report(alone: Tally, tally: Tally) -> None:
    for word in alone.words:
        print(word)
    per_search = tally.finished / tally.searches
    print(
        f"{sum(tally.kills.values())} kills in {tally.searches} searches: {tally.finished} "
        f"finished trials, lost {tally.lost}, changed {tally.changed}, doubled {tally.doubled}, "
        f"begun again {tally.repeated}; searches without a model {tally.without_model}"
    )
    print(
        f"trials per search {per_search:.1f}, left alone {alone.finished}, ratio "
        f"{per_search / max(alone.finished, 1):.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each target")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of one search")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    alone, tally = Tally(), Tally()
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as name:
        folder = Path(name)
        write_rows(folder / "rows.csv")
        with services_system(folder / "state") as system:
            with system.client() as client:
                dataset = client.upload(folder / "rows.csv", target_hint="y").name

            def left() -> list[str]:
                """Every kill that is still to come: one drawn from them is as from a bag."""
                return [
                    each for each in TARGETS for _ in range(arguments.kills - tally.kills[each])
                ]

            def search(into: Tally, targets: Callable[[], Sequence[str]]) -> None:
                killed_search(
                    system,
                    dataset,
                    folder,
                    into,
                    targets,
                    target_column="y",
                    budget_s=arguments.budget,
                    pause_s=PAUSE_S,
                    rng=rng,
                )

            search(alone, tuple)
            print(f"left alone: {alone.finished} trials", flush=True)
            began = time.monotonic()
            while left():
                before = len(tally.words)
                search(tally, left)
                kills = " ".join(f"{each} {tally.kills[each]}" for each in TARGETS)
                print(
                    f"{time.monotonic() - began:6.0f} s  {tally.searches} searches, "
                    f"{tally.finished} trials, killed: {kills}",
                    flush=True,
                )
                for word in tally.words[before:]:
                    print(word, flush=True)
    _report(alone, tally)
    return 0 if tally.good and alone.good else 1


if __name__ == "__main__":
    sys.exit(main())
