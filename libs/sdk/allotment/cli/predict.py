"""`allotment predict`."""

from pathlib import Path
from typing import Annotated

import typer

from allotment.cli.options import JsonOption, say
from allotment.cli.render import print_json
from allotment.predict import predict_file


def predict(
    model: Annotated[Path, typer.Argument(help="model.onnx, or the folder that it is in")],
    rows: Annotated[Path, typer.Argument(help="CSV with a header line")],
    out: Annotated[Path, typer.Option(help="CSV to write, one line per row")],
    as_json: JsonOption = False,
) -> None:
    """Predict rows: a probability column per class, or one column `prediction`.

    Columns that the model does not know are ignored.
    """
    count = predict_file(model, rows, out, on_warning=lambda text: say(f"warning: {text}"))
    if as_json:
        print_json({"rows": count, "out": str(out)})
    else:
        say(f"{count} rows predicted, {out} written")
