"""`allotment pools`, `allotment leases`, `allotment usage`."""

from typing import Annotated

import typer

from allotment.cli.options import JsonOption
from allotment.cli.render import moment, print_json, print_table, short, size
from allotment.cli.session import connect


def pools(as_json: JsonOption = False) -> None:
    """Where trials run."""
    with connect() as client:
        found = list(client.pools.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("POOL", "KIND", "SLOTS", "USED", "THREADS PER SLOT", "MEMORY PER SLOT"),
        (
            (
                p.name,
                p.kind,
                str(p.slot_count),
                str(p.used_slot_count),
                str(p.threads_per_slot),
                size(p.memory_bytes_per_slot),
            )
            for p in found
        ),
        empty="no pools",
    )


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
