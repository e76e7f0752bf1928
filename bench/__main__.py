"""Benchmarks in short forms: `make bench`."""

import subprocess
import sys

SHORT_FORMS = (
    ("startup", "--repeat", "3"),
    ("first_model", "--repeat", "3"),
    ("upload", "--size-mib", "64", "--repeat", "5"),
    ("writes", "--count", "1000", "--callers", "64"),
    ("parity", "--rows", "2000", "--columns", "10"),
    ("ensembles",),
    ("suggest", "--repeat", "100"),
    ("coordination", "--clients", "8", "--window-s", "4"),
    ("kills", "--kills", "1"),
    ("deadline", "--budget", "10", "--load", "both"),
    ("halving", "--trials", "24", "--rows", "500"),
    ("quality", "--budget", "20s", "--seeds", "0"),
)


def main() -> int:
    failed = []
    for name, *arguments in SHORT_FORMS:
        print(f"== python -m bench.{name} {' '.join(arguments)}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", f"bench.{name}", *arguments], check=False
        ).returncode:
            failed.append(name)
    print("limits missed by: " + ", ".join(failed) if failed else "all within their limits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
