"""Many short trials on few trainers: what each of them costs besides its own time.

    python -m bench.cluster_trials [--trials 24] [--parallel 4] [--local] [--jobs IMAGE]

Each trial sleeps one second (the family `napping`, that only this registers); so many run at once,
after the constant predictor, which every search trains first. Counted from CreateExperiment to its
last change. The server is the one of ALLOTMENT_SERVER, ALLOTMENT_TOKEN and ALLOTMENT_CA, whose
controller and trainers have to know the family (`allotment_testkit.naps.CHART`: for a release).
`--local` starts services and trainers as processes here. `--jobs IMAGE`: the baseline, as many bare
Jobs of one GPU each on the cluster of KUBECONFIG that sleep one second with that image's Python.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import allotment
from allotment_testkit import naps
from allotment_testkit.services_system import services_system

LIMIT_S = 15.0
"""For 24 trials, 4 at once, in pods."""
NAMESPACE = "allotment-bench"


@contextlib.contextmanager
def server(local: bool, parallel: int, folder: Path) -> Iterator[allotment.Client]:
    if not local:
        with allotment.Client() as client:
            yield client
        return
    slots = f"allocator.ALLOTMENT_ALLOCATOR_SLOTS={parallel}"
    with (
        services_system(folder / "state", *naps.SERVICES, slots) as system,
        system.client() as client,
    ):
        yield client


def search(
    client: allotment.Client, data: allotment.types.DatasetVersion, args: argparse.Namespace
) -> float:
    """Seconds from the call to the experiment's last change; prints where they went."""
    begun = time.monotonic()
    experiment = naps.begin(client, data, naps=args.trials, parallel=args.parallel)
    ended = client.experiments.wait(experiment)
    taken_s = time.monotonic() - begun
    trials = naps.check_each_was_trained_once(client, ended, naps=args.trials)
    started = [t.start_time for t in trials if t.start_time]
    spent = sorted(
        (t.end_time - t.start_time).total_seconds() - 1.0
        for t in trials
        if t.family == naps.FAMILY and t.start_time and t.end_time
    )
    first_s = (min(started) - ended.create_time).total_seconds()
    span_s = (max(t.end_time for t in trials if t.end_time) - min(started)).total_seconds()
    print(
        f"{args.trials} trials of 1 s, {args.parallel} at once: {taken_s:.2f} s; first trial after "
        f"{first_s:.2f} s, trials {span_s:.2f} s, end {taken_s - first_s - span_s:.2f} s; "
        f"besides its second a trial took {spent[len(spent) // 2]:.3f} s (median), "
        f"{spent[-1]:.3f} s (most)",
        flush=True,
    )
    return taken_s


def bare_jobs(image: str, count: int) -> float:
    """Seconds from one kubectl's start until the last of so many Jobs is complete."""

    def kubectl(*arguments: str, given: str = "") -> str:
        done = subprocess.run(
            ["kubectl", *arguments], input=given, capture_output=True, text=True, check=True
        )
        return done.stdout

    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [
            {
                "name": "nap",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python", "-c", "import time; time.sleep(1)"],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
            }
        ],
    }
    jobs = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"nap-{number}", "namespace": NAMESPACE},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        }
        for number in range(count)
    ]
    kubectl("create", "namespace", NAMESPACE)
    try:
        begun = time.monotonic()
        kubectl(
            "create",
            "-f",
            "-",
            given=json.dumps({"apiVersion": "v1", "kind": "List", "items": jobs}),
        )
        while True:
            found = json.loads(kubectl("get", "jobs", "-n", NAMESPACE, "-o", "json"))["items"]
            if sum(job["status"].get("succeeded", 0) for job in found) == count:
                return time.monotonic() - begun
            time.sleep(0.25)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds of the best run")
    parser.add_argument("--local", action="store_true", help="services of our own")
    parser.add_argument("--jobs", metavar="IMAGE", help="bare Jobs too, on KUBECONFIG's cluster")
    args = parser.parse_args()
    if not args.local and not os.environ.get("ALLOTMENT_SERVER"):
        parser.error("name a server with ALLOTMENT_SERVER, or take --local")
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as name:
        folder = Path(name)
        with server(args.local, args.parallel, folder) as client:
            data = client.upload(naps.write_rows(folder / "rows.csv"), target_hint="y")
            runs = [search(client, data, args) for _ in range(args.repeat)]
    if args.jobs:
        print(f"{args.trials} bare Jobs: {bare_jobs(args.jobs, args.trials):.2f} s")
    return 0 if min(runs) <= args.limit else 1


if __name__ == "__main__":
    sys.exit(main())
