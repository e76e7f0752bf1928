"""What was used: slot-seconds of ended and of running leases."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from allotment_allocator.domain.lease import Lease
from allotment_allocator.domain.ports import Used
from allotment_core.names import TenantName


def add_running(
    ended: Mapping[str, Used], leases: Iterable[Lease], tenant: TenantName, now: datetime
) -> dict[str, Used]:
    """By experiment, running leases up to now included; a lease counts once it was granted."""
    used = dict(ended)
    for lease in leases:
        if lease.tenant == tenant and lease.granted:
            before = used.get(str(lease.holder), Used())
            used[str(lease.holder)] = Used(
                before.slot_seconds + lease.slot_seconds(now), before.lease_count + 1
            )
    return used


def total(used: Iterable[Used]) -> Used:
    parts = list(used)
    return Used(sum(u.slot_seconds for u in parts), sum(u.lease_count for u in parts))
