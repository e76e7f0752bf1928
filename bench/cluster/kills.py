"""kill -9 of the allocator at random moments, with a thousand leases that come and go.

No GPU may be granted twice, no Job of an ended lease may be there 30 s after, and each time it has
to answer again, with the cluster known, in under 5 s. The cluster is that of $KUBECONFIG.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import Kube, allocator, controller_of, why_no_cluster
from allotment_testkit.cluster_trouble import Findings, kill_often

BACK_LIMIT_S = 5.0


async def _kills(folder: Path, kills: int, leases: int, seed: int) -> tuple[Findings, float, int]:
    with allocator(folder) as running:
        async with controller_of(running) as controller:
            found = await kill_often(
                Kube(),
                running,
                controller,
                kills=kills,
                leases=leases,
                shape=pb.Shape(resource="gpu"),
                seed=seed,
            )
            cpu_s, resident_bytes = running.usage()
    return found, cpu_s, resident_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--leases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if reason := why_no_cluster():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder:
        work = _kills(Path(folder), chosen.kills, chosen.leases, chosen.seed)
        found, _, resident_bytes = asyncio.run(work)
    back_s = sorted(found.back_s)
    print(
        f"{len(back_s)} kills with {chosen.leases} leases: back after "
        f"{back_s[len(back_s) // 2]:.1f} s in the median, {back_s[-1]:.1f} s at most "
        f"(limit {BACK_LIMIT_S}); granted twice: "
        f"{len(found.doubled)}, orphans after 30 s: {len(found.orphans)}, leases without a pod: "
        f"{len(found.lost)}; {resident_bytes / 1e6:.0f} MB"
    )
    for text in (*found.doubled, *found.orphans, *found.lost)[:20]:
        print(f"  {text}")
    if not found.clean or back_s[-1] > BACK_LIMIT_S:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
