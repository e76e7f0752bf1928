"""`allotment tenants` and `allotment token`."""

from typing import Annotated

import typer

from allotment.cli.options import JsonOption, parse_duration_s
from allotment.cli.render import moment, print_deleted, print_fields, print_json, print_table
from allotment.cli.session import connect
from allotment.types import Tenant

app = typer.Typer(help="Who shares the pools.")
token_app = typer.Typer(help="Tokens.", no_args_is_help=True)
GuaranteeOption = Annotated[int | None, typer.Option(help="Slots it always gets back.", min=0)]
QuotaOption = Annotated[int | None, typer.Option(help="Slots held at once; 0: no limit.", min=0)]
ISOLATION_HELP = "shared, or dedicated: whole nodes for it alone, charged as such."
SHARE = "--share-experience/--no-share-experience"
SHARE_HELP = "Learn what to try first from its tasks and from those of other tenants who share."


@app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_tenants(as_json)


@app.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """All tenants; for admins."""
    with connect() as client:
        found = list(client.tenants.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("TENANT", "WEIGHT", "GUARANTEED", "QUOTA", "SHARES", "CREATED"),
        (
            (
                t.name.removeprefix("tenants/"),
                f"{t.weight:g}",
                str(t.guaranteed_slots),
                str(t.quota_slots or "none"),
                "yes" if t.shares_experience else "no",
                moment(t.create_time),
            )
            for t in found
        ),
        empty="no tenants",
    )


@app.command()
def create(
    tenant: str,
    weight: Annotated[float, typer.Option(help="Share of contended slots.")] = 1.0,
    guaranteed: Annotated[int, typer.Option(help="Slots it always gets back.", min=0)] = 0,
    quota: Annotated[int, typer.Option(help="Slots held at once; 0: no limit.", min=0)] = 0,
    share: Annotated[bool, typer.Option(SHARE, help=SHARE_HELP)] = False,
    isolation: Annotated[str, typer.Option(help=ISOLATION_HELP)] = "shared",
    as_json: JsonOption = False,
) -> None:
    """Add a tenant."""
    with connect() as client:
        made = client.tenants.create(
            tenant,
            weight=weight,
            guaranteed_slots=guaranteed,
            quota_slots=quota,
            shares_experience=share,
            isolation=isolation,
        )
    _print_tenant(made, as_json)


@app.command()
def show(
    tenant: Annotated[str, typer.Argument(help="The token's own by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """One tenant."""
    with connect() as client:
        _print_tenant(client.tenants.get(tenant), as_json)


@app.command()
def update(
    tenant: str,
    weight: Annotated[float | None, typer.Option(help="Share of contended slots.")] = None,
    guaranteed: GuaranteeOption = None,
    quota: QuotaOption = None,
    share: Annotated[bool | None, typer.Option(SHARE, help=SHARE_HELP)] = None,
    isolation: Annotated[str | None, typer.Option(help=ISOLATION_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant's share, its isolation, or its consent to learning from its tasks."""
    with connect() as client:
        changed = client.tenants.update(
            tenant,
            weight=weight,
            guaranteed_slots=guaranteed,
            quota_slots=quota,
            shares_experience=share,
            isolation=isolation,
        )
    _print_tenant(changed, as_json)


@app.command()
def delete(tenant: str, as_json: JsonOption = False) -> None:
    """Remove a tenant that holds no leases."""
    with connect() as client:
        client.tenants.delete(tenant)
    print_deleted(tenant, as_json)


@token_app.command("create")
def create_token(
    tenant: Annotated[str, typer.Option(help="The token's own by default.")] = "",
    role: Annotated[str, typer.Option(help="viewer, editor or admin")] = "editor",
    ttl: Annotated[str, typer.Option(help="How long it is valid: 1h, 30d; at most 366d.")] = "1d",
    as_json: JsonOption = False,
) -> None:
    """Sign a token for a tenant; for admins. Prints the token alone."""
    with connect() as client:
        made = client.tenants.issue_token(tenant, role=role, ttl_s=parse_duration_s(ttl))
    if as_json:
        print_json(made)
    else:
        print(made.token)


def _print_tenant(found: Tenant, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "tenant": found.name,
            "weight": f"{found.weight:g}",
            "guaranteed slots": str(found.guaranteed_slots),
            "quota": str(found.quota_slots or "none"),
            "isolation": found.isolation,
            "shares experience": "yes" if found.shares_experience else "no",
            "created": moment(found.create_time),
        }
    )
