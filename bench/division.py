"""Processor time of one division of 500 nodes with 8 GPUs each.

python -m bench.division
"""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from allotment_allocator.domain.division import decide
from allotment_allocator.domain.pool import GPU, Node, Pool, PoolKind, Wanted
from allotment_allocator.domain.snapshot import Claim, Decision, Holding, Snapshot
from allotment_allocator.domain.tenant import Terms
from allotment_core.names import ExperimentName, LeaseName, PoolName, TenantName
from allotment_testkit.pool_market import START

NODES, GPUS = 500, 8
_GPUS = Wanted(resource=GPU)


def pool() -> Pool:
    nodes = tuple(Node(name=f"h100-{n}", slot_count=GPUS) for n in range(NODES))
    return Pool(name=PoolName("h100"), nodes=nodes, kind=PoolKind.NODES, resource=GPU)


def holders(tenants: int, experiments: int) -> list[ExperimentName]:
    return [
        ExperimentName(TenantName(f"t{t}"), f"e{e}")
        for t in range(tenants)
        for e in range(experiments)
    ]


def claims(who: list[ExperimentName], each: int, first: int = 0) -> list[Claim]:
    """One GPU each, in turn."""
    return [
        Claim(
            lease=LeaseName(holder.tenant, f"l-{number:08d}"),
            holder=holder,
            slot_count=1,
            create_time=START + timedelta(milliseconds=number),
            waited_s=1.0,
            wanted=_GPUS,
        )
        for number, holder in enumerate(who * each, first)
    ]


def held(queued: list[Claim], decision: Decision) -> list[Holding]:
    return [
        Holding(
            lease=claim.lease,
            holder=claim.holder,
            slot_count=1,
            held_s=100.0,
            place=decision.grants[claim.lease],
            wanted=_GPUS,
        )
        for claim in queued
    ]


def snapshot(queued: list[Claim], holdings: list[Holding]) -> Snapshot:
    """Everybody has the same terms."""
    names = {claim.holder.tenant for claim in queued} | {each.holder.tenant for each in holdings}
    return Snapshot(
        pools=(pool(),),
        terms=dict.fromkeys(names, Terms()),
        queued=tuple(queued),
        held=tuple(holdings),
    )


def _cpu_ms(work: Callable[[], object], repeat: int = 5) -> float:
    """The least of some runs."""
    taken = []
    for _ in range(repeat):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return min(taken) * 1e3


def main() -> None:
    newcomer = ExperimentName(TenantName("new"), "e")
    for tenants, experiments, each in ((3, 1, 1200), (36, 1, 100), (1, 300, 12)):
        who = holders(tenants, experiments)
        asked = claims(who, each)
        holdings = held(asked, decide(snapshot(asked, [])))
        shapes = {
            "3,600 leases are granted": snapshot(asked, []),
            "3,600 are held, none waits": snapshot([], holdings),
            "as many wait as well": snapshot(claims(who, each, 10_000), holdings),
            "another tenant wants 1,200": snapshot(claims([newcomer], 1200, 20_000), holdings),
        }
        print(f"{tenants} tenants with {experiments} experiments each")
        for name, shape in shapes.items():
            print(f"  {name:28s} {_cpu_ms(partial(decide, shape)):7.1f} ms")


if __name__ == "__main__":
    main()
