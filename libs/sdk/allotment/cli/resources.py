"""`allotment pools`, `allotment nodes`, `allotment leases`, `allotment usage`."""

from typing import Annotated

import typer

from allotment.cli.options import JsonOption
from allotment.cli.render import moment, print_json, print_table, short, size
from allotment.cli.session import connect
from allotment.types import Node, Pool


def pools(as_json: JsonOption = False) -> None:
    """Where trials run."""
    with connect() as client:
        found = list(client.pools.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("POOL", "KIND", "RESOURCE", "NODES", "SLOTS", "USED", "PER SLOT", "PRICE"),
        (
            (
                p.name,
                p.kind,
                _what(p),
                _of(p.open_node_count, p.node_count),
                _slots(p),
                str(p.used_slot_count),
                _per_slot(p),
                _price(p.price_per_slot_hour),
            )
            for p in found
        ),
        empty="no pools",
    )


def nodes(
    pool: Annotated[str, typer.Argument(help="Of one pool alone.")] = "",
    as_json: JsonOption = False,
) -> None:
    """The machines of the pools; needs an admin's token."""
    with connect() as client:
        found = list(client.pools.nodes(pool))
    if as_json:
        print_json(found)
        return
    print_table(
        ("NODE", "POOL", "STATE", "RESOURCE", "SLOTS", "USED", "FREE", "PRICE"),
        (
            (
                n.name.rpartition("/")[2],
                n.pool,
                str(n.state),
                _what(n),
                str(n.slot_count),
                str(n.used_slot_count),
                str(n.free_slot_count),
                _price(n.price_per_slot_hour),
            )
            for n in found
        ),
        empty="no nodes",
    )


def _slots(pool: Pool) -> str:
    more = f" (+{pool.expected_slot_count})" if pool.expected_slot_count else ""
    return f"{pool.slot_count}{more}"


def _what(slots: Pool | Node) -> str:
    return f"{slots.resource} {slots.product}".strip()


def _per_slot(pool: Pool) -> str:
    threads = "1 thread" if pool.threads_per_slot == 1 else f"{pool.threads_per_slot} threads"
    return f"{threads}, {size(pool.memory_bytes_per_slot)}"


def _of(some: int, most: int) -> str:
    return str(most) if some == most else f"{some} of {most}"


def _price(per_slot_hour: float) -> str:
    return f"{per_slot_hour:g}/slot h" if per_slot_hour else "-"


def leases(
    ended: Annotated[bool, typer.Option("--ended", help="Ended ones too.")] = False,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="For admins.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Who holds slots, and who waits for them."""
    with connect() as client:
        found = list(client.leases.list(include_ended=ended, all_tenants=all_tenants))
    if as_json:
        print_json(found)
        return
    print_table(
        ("LEASE", "STATE", "EPOCH", "HOLDER", "POOL", "SLOTS", "CREATED", "WAITS FOR"),
        (
            (
                x.name if all_tenants else short(x.name),
                str(x.state),
                str(x.epoch),
                short(x.holder),
                x.pool or "-",
                str(x.slot_count),
                moment(x.create_time),
                x.wait.message if x.wait else "",
            )
            for x in found
        ),
        empty="no leases",
    )


def usage(
    tenant: Annotated[str, typer.Argument(help="The token's own by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """What a tenant and its experiments used, in slot-seconds."""
    with connect() as client:
        total, experiments = client.tenants.usage(tenant)
    if as_json:
        print_json({"total": total, "experiments": experiments})
        return
    print_table(
        ("NAME", "SLOT SECONDS", "LEASES"),
        ((u.name, f"{u.slot_seconds:.1f}", str(u.lease_count)) for u in (total, *experiments)),
    )
