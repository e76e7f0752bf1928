"""All of them, one after the other: `python -m bench.cluster`."""

import subprocess
import sys

PARTS = ("scale", "kills", "outage")


def main() -> None:
    failed = []
    for part in PARTS:
        print(f"== {part}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.cluster.{part}"], check=False).returncode:
            failed.append(part)
    if failed:
        raise SystemExit(f"not as it has to be: {', '.join(failed)}")


if __name__ == "__main__":
    main()
