"""Predictions of rows in delimited text by an artefact; needs numpy and onnxruntime alone."""

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allotment.cells import CellRules, RowFile
from allotment_core.errors import FailedPrecondition, InvalidArgument, clip

# Before onnxruntime is imported: it would look a vendor's host up otherwise.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

SIGNATURE_KEY = "allotment.signature"
BATCH_ROWS = 10_000
OnWarning = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of the graph: which column it takes, and what that holds (numeric, categorical,
    date, text).
    """

    column: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What model.onnx says about itself: the reading rules and the names of its outputs."""

    task: str
    target: str
    classes: tuple[str, ...]
    inputs: Mapping[str, Input]
    """By the input's name, which is the column's unless an output has that name."""
    rules: CellRules

    @classmethod
    def parse(cls, text: str) -> "Signature":
        """Raises: InvalidArgument (BAD_SIGNATURE)."""
        try:
            content = json.loads(text)
            reading = content.get("reading", {})
            return cls(
                task=str(content["task"]),
                target=str(content["target"]),
                classes=tuple(map(str, content.get("classes", ()))),
                inputs={
                    str(item["name"]): Input(
                        column=str(item.get("column", item["name"])), kind=str(item["kind"])
                    )
                    for item in content["inputs"]
                },
                rules=CellRules(
                    decimal="," if reading.get("decimal") == "," else ".",
                    missing_markers=frozenset(map(str, reading.get("missing_markers", ()))),
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise InvalidArgument(
                f"the model's signature is not readable ({clip(e)}); export the model again",
                reason="BAD_SIGNATURE",
            ) from e

    @property
    def regression(self) -> bool:
        return self.task == "regression"


class Predictor:
    """An artefact that is ready to predict."""

    def __init__(self, path: Path) -> None:
        """Raises: InvalidArgument (FILE_UNREADABLE, BAD_MODEL), FailedPrecondition
        (RUNTIME_MISSING).
        """
        self._np, runtime = _runtime()
        if path.is_dir():
            path = path / "model.onnx"
        if not path.is_file():
            raise InvalidArgument(
                f"there is no model {path}; name a model.onnx", reason="FILE_UNREADABLE"
            )
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:
            raise InvalidArgument(
                f"onnxruntime {runtime.__version__} can't load {path}: {clip(e, 200)}",
                reason="BAD_MODEL",
            ) from e
        metadata = self._session.get_modelmeta().custom_metadata_map
        if SIGNATURE_KEY not in metadata:
            raise InvalidArgument(
                f"{path} is no artefact of Allotment: its metadata lacks {SIGNATURE_KEY!r}",
                reason="BAD_MODEL",
            )
        self.signature = Signature.parse(metadata[SIGNATURE_KEY])
        known = self.signature.inputs
        self._inputs = {
            node.name: known.get(node.name) or Input(column=node.name, kind="categorical")
            for node in self._session.get_inputs()
        }

    @property
    def columns(self) -> Sequence[str]:
        """The columns that rows need."""
        return tuple(source.column for source in self._inputs.values())

    @property
    def output_names(self) -> tuple[str, ...]:
        """One column of predictions for each."""
        return ("prediction",) if self.signature.regression else self.signature.classes

    def places(self, header: Sequence[str]) -> Mapping[str, int]:
        """Where each needed column stands in a header.

        Raises: InvalidArgument (MISSING_COLUMNS, DUPLICATE_COLUMN).
        """
        return column_places(self.columns, header)

    def predict(
        self, cells: Mapping[str, Sequence[str]], unread: dict[str, str] | None = None
    ) -> Any:
        """Predictions as float64 [rows, outputs] for columns of cells, all of one length.

        Cells that are no numbers where numbers are needed count as missing; `unread` gets the
        first one of each column.
        """
        np = self._np
        feeds = {}
        for name, source in self._inputs.items():
            values = [self._value(source, cell, unread) for cell in cells[source.column]]
            dtype = np.float64 if source.kind == "numeric" else object
            feeds[name] = np.array(values, dtype=dtype).reshape(-1, 1)
        wanted = "prediction" if self.signature.regression else "probabilities"
        (outputs,) = self._session.run([wanted], feeds)
        return np.asarray(outputs, dtype=np.float64).reshape(-1, len(self.output_names))

    def _value(self, source: Input, cell: str, unread: dict[str, str] | None) -> float | str:
        rules = self.signature.rules
        if source.kind == "date":
            return rules.date(cell)
        if source.kind != "numeric":
            return rules.text(cell)
        number = rules.number(cell)
        if number is None:
            if unread is not None:
                unread.setdefault(source.column, cell)
            return float("nan")
        return number


def column_places(columns: Sequence[str], header: Sequence[str]) -> Mapping[str, int]:
    """Where each column stands in a header. Raises: InvalidArgument (MISSING_COLUMNS,
    DUPLICATE_COLUMN).
    """
    names = [*header]
    missing = [name for name in columns if name not in names]
    if missing:
        stripped = [name.strip() for name in names]
        names = [s if s in missing else name for name, s in zip(names, stripped, strict=True)]
        missing = [name for name in missing if name not in names]
    if missing:
        listed = ", ".join(repr(clip(name)) for name in missing[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise InvalidArgument(
            f"the rows lack {len(missing)} of the model's {len(columns)} columns: "
            f"{listed}{more}; add them",
            reason="MISSING_COLUMNS",
        )
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise InvalidArgument(
            f"the rows have the column {clip(twice[0])!r} more than once; rename or drop one",
            reason="DUPLICATE_COLUMN",
        )
    return {name: names.index(name) for name in columns}


def _runtime() -> tuple[Any, Any]:
    try:
        import numpy  # noqa: PLC0415 - not part of the base install
        import onnxruntime  # noqa: PLC0415 - not part of the base install
    except ImportError as e:
        raise FailedPrecondition(
            "predicting needs onnxruntime and numpy; pip install 'allotment[predict]'",
            reason="RUNTIME_MISSING",
        ) from e
    return numpy, onnxruntime


def batches(rows: RowFile, places: Mapping[str, int]) -> Iterator[dict[str, list[str]]]:
    """The cells of the named columns, in batches of rows."""
    lines = iter(rows)
    while batch := list(itertools.islice(lines, BATCH_ROWS)):
        yield {name: [cells[at] for _, cells in batch] for name, at in places.items()}


def predict_file(
    model: Path, rows_path: Path, out: Path, *, on_warning: OnWarning | None = None
) -> int:
    """Writes one line of predictions for each row; `out` appears when it is whole. The number of
    rows.

    Raises: InvalidArgument, FailedPrecondition.
    """
    predictor = Predictor(model)
    rows = RowFile(rows_path)
    places = predictor.places(rows.header)
    unread: dict[str, str] = {}
    count = 0
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(predictor.output_names)
            for cells in batches(rows, places):
                predictions = predictor.predict(cells, unread).tolist()
                writer.writerows([repr(value) for value in row] for row in predictions)
                count += len(predictions)
        partial.replace(out)
    except OSError as e:
        raise InvalidArgument(
            f"{out} can't be written: {e.strerror}; choose another folder or make room",
            reason="FILE_UNWRITABLE",
        ) from e
    finally:
        partial.unlink(missing_ok=True)
    if on_warning:
        for name, cell in unread.items():
            on_warning(
                f"column {clip(name)!r} has cells that are no numbers, such as {clip(cell)!r}; "
                "they count as missing"
            )
    return count
