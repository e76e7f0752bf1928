"""What the leases of a tenant that has a node alone are charged for."""

from collections.abc import Sequence

from allotment_allocator.domain.lease import Lease


def charges(node_slots: int, leases: Sequence[Lease]) -> list[tuple[Lease, int]]:
    """The slots of a node divided among all leases on it, by what they asked for: whole slots,
    never fewer than a lease has.
    """
    own = sum(lease.slot_count for lease in leases)
    spare = max(0, node_slots - own)
    parts = [lease.slot_count + spare * lease.slot_count // own for lease in leases]
    left = max(node_slots, own) - sum(parts)
    ordered = sorted(range(len(leases)), key=lambda i: leases[i].name)
    for index in ordered[:left]:
        parts[index] += 1
    return list(zip(leases, parts, strict=True))
