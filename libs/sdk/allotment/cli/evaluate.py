"""`allotment evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from allotment.cli.options import JsonOption, say
from allotment.cli.render import number, print_fields, print_json
from allotment.evaluate import evaluate_file


def evaluate(
    model: Annotated[Path, typer.Argument(help="model.onnx, or the folder that it is in")],
    rows: Annotated[Path, typer.Argument(help="CSV with a header line and the target's column")],
    as_json: JsonOption = False,
) -> None:
    """All metrics of a model's task on labelled rows."""
    result = evaluate_file(model, rows, on_warning=lambda text: say(f"warning: {text}"))
    if as_json:
        print_json(result)
        return
    print_fields(
        {"rows": str(result.row_count), **{k: number(v) for k, v in result.metrics.items()}}
    )
