"""`allotment refit`: a model on newer rows, without a search."""

from pathlib import Path
from typing import Annotated

import typer

from allotment.cli.experiments import describe
from allotment.cli.models import ModelArgument
from allotment.cli.options import JsonOption, say
from allotment.cli.render import number, print_json
from allotment.cli.session import connect
from allotment.types import Change


def refit(
    model: ModelArgument,
    data: Annotated[
        str, typer.Option(help="DATASET or DATASET/VERSION; the latest of the model's by default")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for model.onnx and manifest.json.")
    ] = None,
    name: Annotated[str, typer.Option(help="Id of the experiment that does it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Train a model's own configuration again on newer rows.

    Nothing is searched. It ends with a new model, which is proven like any other; the old one
    stays.
    """

    def tell(change: Change) -> None:
        if not as_json:
            say(describe(change))

    with connect() as client:
        begun = client.models.refit(model, data=data, experiment_id=name)
        client.experiments.wait(begun, progress=tell)
        made = client.models.best(begun)
        old = client.models.get(model)
        if out is not None:
            client.models.download(made, out)
    if as_json:
        print_json(made)
        return
    print(f"{made.name}: {made.metric} {number(made.score)} (before: {number(old.score)})")
    if out is not None:
        print(f"written: {out / 'model.onnx'}")
        print(f"written: {out / 'manifest.json'}")
