"""How late `allotment run` ends, on an idle machine and with one busy process per core beside it.

    python -m bench.deadline [--budget 10] [--sets covertype_20k,airlines_delay] [--repeat 1]

The baseline is the budget itself: `end / budget`, and the limit budget + max(2 s, 3 %).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.sets import TabularSet, tabular_sets

ALLOTMENT = str(Path(sys.executable).with_name("allotment"))
BURN = "while True: pass"


def run_once(entry: TabularSet, budget_s: float) -> tuple[float, bool]:
    """Wall seconds of the whole process, and whether it left a model."""
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as folder:
        command = [ALLOTMENT, "run", str(entry.path), "--target", entry.target]
        command += ["--budget", f"{budget_s:g}s", "--out", folder]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        elapsed_s = time.perf_counter() - started
        has_model = (
            (Path(folder) / "model.onnx").stat().st_size > 0 if not done.returncode else False
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    return elapsed_s, has_model


def measure(entries: list[TabularSet], budget_s: float, repeat: int, label: str) -> bool:
    limit_s = budget_s + max(2.0, 0.03 * budget_s)
    kept = True
    for entry in entries:
        for _ in range(repeat):
            elapsed_s, has_model = run_once(entry, budget_s)
            kept &= has_model and elapsed_s <= limit_s
            print(
                f"{label:5} {entry.name:22} {elapsed_s:7.2f} s"
                f"  end / budget {elapsed_s / budget_s:.3f}"
                f"  {'model' if has_model else 'NO MODEL'}"
                f"{'' if elapsed_s <= limit_s else f'  LATE (limit {limit_s:.1f} s)'}",
                flush=True,
            )
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--sets", default="")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--load", choices=("idle", "busy", "both"), default="both")
    arguments = parser.parse_args()
    entries = tabular_sets([name for name in arguments.sets.split(",") if name])
    kept = True
    if arguments.load in ("idle", "both"):
        kept &= measure(entries, arguments.budget, arguments.repeat, "idle")
    if arguments.load in ("busy", "both"):
        cores = len(os.sched_getaffinity(0))
        burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(cores)]
        try:
            kept &= measure(entries, arguments.budget, arguments.repeat, "busy")
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
