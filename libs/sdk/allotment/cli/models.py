"""`allotment models`: the stream of better and better models."""

from pathlib import Path
from typing import Annotated

import typer

from allotment.cli.experiments import describe, print_json_line
from allotment.cli.options import JsonOption
from allotment.cli.render import (
    moment,
    number,
    print_fields,
    print_json,
    print_paths,
    print_table,
    size,
)
from allotment.cli.session import connect
from allotment.types import Model

app = typer.Typer(help="List, watch and download models.", no_args_is_help=True)
ModelArgument = Annotated[str, typer.Argument(help="A model's name, EXPERIMENT/3, EXPERIMENT/best")]


@app.command("list")
def list_models(experiment: str, as_json: JsonOption = False) -> None:
    """An experiment's models."""
    with connect() as client:
        found = list(client.models.list(experiment))
    if as_json:
        print_json(found)
        return
    print_table(
        ("MODEL", "STATE", "FAMILY", "TRIALS", "METRIC", "SCORE", "SIZE", "READY"),
        (
            (
                m.name.rsplit("/", 1)[-1],
                str(m.state),
                m.family,
                " ".join(_id(member.trial) for member in m.members),
                str(m.metric),
                number(m.score),
                size(m.artefact_size_bytes),
                moment(m.ready_time),
            )
            for m in found
        ),
        empty="no models yet",
    )


def _members(model: Model) -> str:
    if len(model.members) == 1:
        return f"trial {_id(model.members[0].trial)}"
    return ", ".join(f"{m.weight:.3f} x trial {_id(m.trial)} ({m.family})" for m in model.members)


def _calibration(model: Model) -> dict[str, str]:
    found = model.calibration
    if found is None:
        return {}
    return {
        "temperature": number(found.temperature),
        "calibration error": f"{found.ece_before:.4f} before, {found.ece_after:.4f} after",
    }


def _id(name: str) -> str:
    return name.rsplit("/", 1)[-1]


@app.command()
def show(model: ModelArgument, as_json: JsonOption = False) -> None:
    """One model."""
    with connect() as client:
        found = client.models.get(model)
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "model": found.name,
            "state": str(found.state),
            "family": found.family,
            "members": _members(found),
            **_calibration(found),
            **{f"metric {name}": number(value) for name, value in found.metrics.items()},
            "size": size(found.artefact_size_bytes),
            "sha256": found.artefact_sha256 or "-",
            "ready": moment(found.ready_time),
        }
    )
    if found.problem:
        print(f"refused: {found.problem.message} [{found.problem.reason}]")


@app.command()
def watch(experiment: str, as_json: JsonOption = False) -> None:
    """Each model as it becomes ready, until the experiment has ended."""
    with connect() as client:
        for model in client.models.watch(experiment):
            if as_json:
                print_json_line(model)
            else:
                print(describe(model), flush=True)


@app.command()
def download(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder for model.onnx and manifest.json.")],
    as_json: JsonOption = False,
) -> None:
    """A model's artefact, checked against its sha256."""
    with connect() as client:
        paths = client.models.download(model, out)
    print_paths(paths, as_json)
