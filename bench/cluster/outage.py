"""The API server stops for a minute: leases go on, and nothing is granted twice after.

Its process is suspended, so that it has to be one of this machine's ($KUBECONFIG on 127.0.0.1).
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import psutil

from allotment_api.allocator.v1 import allocator_pb2 as pb
from allotment_testkit.cluster_allocator import Kube, allocator, controller_of, why_no_cluster
from allotment_testkit.cluster_trouble import Findings, api_server, outage


async def _outage(folder: Path, server: psutil.Process, leases: int, seconds: float) -> Findings:
    with allocator(folder) as running:
        async with controller_of(running) as controller:
            return await outage(
                Kube(),
                running,
                controller,
                server,
                leases=leases,
                seconds=seconds,
                shape=pb.Shape(resource="gpu"),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--leases", type=int, default=400)
    chosen = parser.parse_args()
    if reason := why_no_cluster():
        raise SystemExit(reason)
    server = api_server()
    if server is None:
        raise SystemExit("the API server is no process of this machine: it can't be stopped here")
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_outage(Path(folder), server, chosen.leases, chosen.seconds))
    print(
        f"the API server was stopped for {chosen.seconds:.0f} s with {chosen.leases} leases: "
        f"granted twice: {len(found.doubled)}, leases lost or begun again: {len(found.lost)}, "
        f"orphans: {len(found.orphans)}; all pods as they should be {found.back_s[0]:.0f} s after"
    )
    for text in (*found.doubled, *found.orphans, *found.lost)[:20]:
        print(f"  {text}")
    if not found.clean:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
