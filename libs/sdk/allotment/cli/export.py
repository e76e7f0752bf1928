"""`allotment export`: the operations that prove artefacts."""

from pathlib import Path
from typing import Annotated

import typer

from allotment.cli.options import JsonOption
from allotment.cli.render import (
    moment,
    number,
    print_deleted,
    print_fields,
    print_json,
    print_paths,
    print_table,
    short,
    size,
)
from allotment.cli.session import connect
from allotment.types import Export

app = typer.Typer(help="Export models once more and look at exports.")


@app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_exports(as_json)


@app.command("list")
def list_exports(as_json: JsonOption = False) -> None:
    """All exports."""
    with connect() as client:
        found = list(client.exports.list())
    if as_json:
        print_json(found)
        return
    print_table(
        ("EXPORT", "STATE", "STAGE", "MODEL", "SIZE", "P95 MS", "CREATED"),
        (
            (
                short(e.name),
                str(e.state),
                e.stage,
                short(e.model),
                size(e.size_bytes),
                number(e.latency_p95_ms),
                moment(e.create_time),
            )
            for e in found
        ),
        empty="no exports yet",
    )


@app.command()
def create(
    model: Annotated[str, typer.Argument(help="A model's name, EXPERIMENT/3, EXPERIMENT/best")],
    out: Annotated[Path | None, typer.Option(help="Folder for the artefact.")] = None,
    precision: Annotated[
        str, typer.Option(help="exact, or int8: eight bits where the metric allows it.")
    ] = "exact",
    as_json: JsonOption = False,
) -> None:
    """Export a model and wait for the result."""
    with connect() as client:
        found = client.exports.create(model, precision)
        for change in client.exports.watch(found.name):
            found = change
        _print_export(found, as_json)
        if out is not None:
            client.exports.download(found, out)
    if found.problem:
        raise typer.Exit(1)


@app.command()
def show(export: str, as_json: JsonOption = False) -> None:
    """One export with its parity report."""
    with connect() as client:
        _print_export(client.exports.get(export), as_json)


@app.command()
def download(
    export: str,
    out: Annotated[Path, typer.Option(help="Folder for model.onnx and manifest.json.")],
    as_json: JsonOption = False,
) -> None:
    """The artefact and manifest of an export."""
    with connect() as client:
        print_paths(client.exports.download(export, out), as_json)


@app.command()
def cancel(export: str, as_json: JsonOption = False) -> None:
    """Stop an export."""
    with connect() as client:
        _print_export(client.exports.cancel(export), as_json)


@app.command()
def delete(export: str, as_json: JsonOption = False) -> None:
    """Forget an ended export."""
    with connect() as client:
        client.exports.delete(export)
    print_deleted(export, as_json)


def _print_export(found: Export, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    fields = {
        "export": found.name,
        "state": f"{found.state} ({found.stage})",
        "model": found.model,
        "size": size(found.size_bytes),
        "latency": f"p50 {found.latency_p50_ms:.3g} ms, p95 {found.latency_p95_ms:.3g} ms",
        "throughput": f"{found.rows_per_s:.0f} rows/s",
    }
    if found.parity:
        fields["parity"] = (
            f"{found.parity.row_count - found.parity.offending_row_count} of "
            f"{found.parity.row_count} rows, worst difference {found.parity.worst_difference:.3g}"
        )
    print_fields(fields)
    if found.problem:
        print(f"failed: {found.problem.message} [{found.problem.reason}]")
