"""The signature that stands in a graph's metadata, so that model.onnx alone suffices.

Canonical JSON: `version` 1; `inputs`: name, type (double or string), kind (numeric, categorical,
date, text), for dates `date_format`, and `column` where the input can't have its column's name
because an output has it; `outputs`: name and type; `task`; `classes` in the order of the
probabilities; `target`; `reading`: missing_markers and decimal of the training file.
"""

import json
from collections.abc import Sequence

from allotment_core.errors import InvalidArgument
from allotment_learn.table import Column, ColumnKind
from allotment_learn.task import ReadingRules, TaskKind

METADATA_KEY = "allotment.signature"
VERSION = 1
OUTPUTS = {
    TaskKind.BINARY: (("label", "string"), ("probabilities", "double")),
    TaskKind.MULTICLASS: (("label", "string"), ("probabilities", "double")),
    TaskKind.REGRESSION: (("prediction", "double"),),
}


def input_names(columns: Sequence[Column], task: TaskKind) -> dict[str, str]:
    """The graph's input by column: the column's name, with "(input)" behind it where an output has
    that name.

    Raises:
        InvalidArgument: a column has no name; ONNX takes an empty name for an absent input.
    """
    taken = {column.name for column in columns} | {name for name, _ in OUTPUTS[task]}
    names: dict[str, str] = {}
    for column in columns:
        if not column.name:
            raise InvalidArgument("a feature column has no name", reason="COLUMN_WITHOUT_NAME")
        name = column.name
        if name in {output for output, _ in OUTPUTS[task]}:
            while name in taken:
                name += " (input)"
            taken.add(name)
        names[column.name] = name
    return names


def signature_json(
    columns: Sequence[Column],
    names: dict[str, str],
    *,
    task: TaskKind,
    classes: Sequence[str],
    target: str,
    reading: ReadingRules,
) -> str:
    """The canonical text: sorted keys, no spaces."""
    inputs = []
    for column in columns:
        entry = {
            "name": names[column.name],
            "type": "double" if column.type is ColumnKind.NUMERIC else "string",
            "kind": column.type.value,
        }
        if column.type is ColumnKind.DATE:
            entry["date_format"] = column.date_format
        if entry["name"] != column.name:
            entry["column"] = column.name
        inputs.append(entry)
    document = {
        "version": VERSION,
        "inputs": inputs,
        "outputs": [{"name": name, "type": kind} for name, kind in OUTPUTS[task]],
        "task": task.value,
        "classes": list(classes),
        "target": target,
        "reading": {
            "missing_markers": list(reading.missing_markers),
            "decimal": reading.decimal,
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
