"""The models of all folds as one graph: from the source columns to their averaged predictions."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from allotment_learn.averaging import FLOOR, divisors, known_classes, unknown_as
from allotment_learn.errors import GraphTooLarge
from allotment_learn.features import NumberSource
from allotment_learn.folds import FoldModel
from allotment_learn.forms import NetworkForm
from allotment_learn.graph.builder import GraphBuilder
from allotment_learn.graph.models import Body, check_size, write_form
from allotment_learn.graph.preparation import SharedInputs, write_shared_inputs
from allotment_learn.graph.signature import METADATA_KEY, OUTPUTS, input_names, signature_json
from allotment_learn.table import ColumnKind
from allotment_learn.task import TaskKind, TrialTask

SIZE_LIMIT_BYTES = 200_000_000


def write_graph(
    task: TrialTask, sources: Sequence[NumberSource], models: Sequence[FoldModel]
) -> bytes:
    """The serialized model. The same models give the same bytes.

    Raises:
        GraphTooLarge: it would not fit in SIZE_LIMIT_BYTES.
        InvalidArgument: a column has no name.
    """
    check_size([model.fitted.form for model in models], SIZE_LIMIT_BYTES)
    columns = task.table.columns
    names = input_names(columns, task.task)
    outputs = [name for name, _ in OUTPUTS[task.task]]
    build = GraphBuilder([*names.values(), *outputs])
    shared = write_shared_inputs(
        build, columns, names, sources, [model.preparation for model in models]
    )
    predictions = [
        _write_fold(build, model, shared, body)
        for model, body in zip(models, _bodies(models), strict=True)
    ]
    _write_average(build, predictions, models, task.task, outputs[-1])
    if task.task is not TaskKind.REGRESSION:
        best = build.node("ArgMax", outputs[-1], axis=1, keepdims=0)
        labels = build.strings(task.classes, [len(task.classes)])
        build.node("Gather", labels, best, output=outputs[0])
    signature = signature_json(
        columns,
        names,
        task=task.task,
        classes=task.classes,
        target=task.target_name,
        reading=task.reading,
    )
    model = build.model(_inputs(task, names), _outputs(task), {METADATA_KEY: signature})
    written = model.SerializeToString(deterministic=True)
    if len(written) > SIZE_LIMIT_BYTES:
        raise GraphTooLarge(
            f"the model takes {len(written) // 10**6} MB, at most "
            f"{SIZE_LIMIT_BYTES // 10**6} MB are written; use fewer trees or larger leaves"
        )
    return written


def _write_average(
    build: GraphBuilder,
    predictions: Sequence[str],
    models: Sequence[FoldModel],
    task: TaskKind,
    output: str,
) -> None:
    """The same steps as `averaging.average`."""
    if len(predictions) == 1:
        build.node("Identity", predictions[0], output=output)
        return
    if task is TaskKind.REGRESSION:
        count = build.constant(float(len(predictions)))
        build.node("Div", build.node("Sum", *predictions), count, output=output)
        return
    known = known_classes(models)
    floor = build.constant(FLOOR)
    logs = []
    for prediction, there in zip(predictions, known, strict=True):
        said = prediction
        if not there.all():
            unknown = build.constant(unknown_as(known))
            said = build.node("Where", build.constant(there), said, unknown)
        logs.append(build.node("Log", build.node("Max", said, floor)))
    mean = build.node("Div", build.node("Sum", *logs), build.constant(divisors(known)))
    build.node("Softmax", mean, axis=1, output=output)


def _bodies(models: Sequence[FoldModel]) -> list[Body | None]:
    """What writes each model's network; None for models of other kinds."""
    forms = [model.fitted.form for model in models if isinstance(model.fitted.form, NetworkForm)]
    if not forms:
        return [None] * len(models)
    # Torch is optional, and slow to import.
    from allotment_learn.graph.network import export_networks  # noqa: PLC0415

    bodies = iter(export_networks(forms))
    return [
        next(bodies).write if isinstance(model.fitted.form, NetworkForm) else None
        for model in models
    ]


def _write_fold(
    build: GraphBuilder, model: FoldModel, shared: SharedInputs, body: Body | None
) -> str:
    raw = write_form(build, model.fitted.form, model.preparation, shared, body)
    if model.log_target is not None:
        above = build.node("Max", raw, build.constant(model.log_target.low))
        cut = build.node("Min", above, build.constant(model.log_target.high))
        return build.node("Sub", build.node("Exp", cut), build.constant(1.0))
    if not model.class_count or len(model.present) == model.class_count:
        return raw
    # Not a product with a 0/1 matrix: onnxruntime would pull a division before it into the product,
    # in single precision.
    padded = build.node("Pad", raw, build.constant(np.array([0, 0, 0, 1])), build.constant(0.0))
    absent = len(model.present)
    columns = np.full(model.class_count, absent, dtype=np.int64)
    columns[list(model.present)] = np.arange(absent)
    return build.node("Gather", padded, build.constant(columns), axis=1)


def _inputs(task: TrialTask, names: dict[str, str]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            names[column.name],
            TensorProto.DOUBLE if column.type is ColumnKind.NUMERIC else TensorProto.STRING,
            ["N", 1],
        )
        for column in task.table.columns
    ]


def _outputs(task: TrialTask) -> list[onnx.ValueInfoProto]:
    if task.task is TaskKind.REGRESSION:
        return [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["N", 1])]
    return [
        helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
        helper.make_tensor_value_info(
            "probabilities", TensorProto.DOUBLE, ["N", len(task.classes)]
        ),
    ]
