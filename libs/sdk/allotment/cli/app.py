"""The command line's tree. Commands are modules by noun."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from allotment.cli import (
    data,
    evaluate,
    experiments,
    export,
    models,
    predict,
    refit,
    resources,
    run,
    tenants,
    up,
)
from allotment.cli.options import CHOICE

app = typer.Typer(
    name="allotment",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="AutoML: labelled data in, an endless stream of better ONNX models out.",
)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"allotment {version('allotment')}")
        except PackageNotFoundError:
            print("allotment 0+unknown")
        raise typer.Exit


@app.callback()
def root(
    server: Annotated[str, typer.Option(help="HOST:PORT (env ALLOTMENT_SERVER)")] = "",
    token: Annotated[str, typer.Option(help="Token (env ALLOTMENT_TOKEN)")] = "",
    ca: Annotated[Path | None, typer.Option(help="CA file (PEM) (env ALLOTMENT_CA)")] = None,
    profile: Annotated[str, typer.Option(help="Profile in ~/.config/allotment/config.toml")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant; the token's own by default")] = "",
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    CHOICE.server, CHOICE.token, CHOICE.ca = server, token, ca
    CHOICE.profile, CHOICE.tenant = profile, tenant


app.command("up")(up.up)
app.command("run")(run.run)
app.command("predict")(predict.predict)
app.command("refit")(refit.refit)
app.command("evaluate")(evaluate.evaluate)
app.command("trials")(experiments.trials)
app.command("families")(experiments.families)
app.command("pools")(resources.pools)
app.command("nodes")(resources.nodes)
app.command("leases")(resources.leases)
app.command("usage")(resources.usage)
app.add_typer(data.app, name="data")
app.add_typer(experiments.app, name="experiments")
app.add_typer(models.app, name="models")
app.add_typer(export.app, name="export")
app.add_typer(tenants.app, name="tenants")
app.add_typer(tenants.token_app, name="token")
