"""A multilayer perceptron with embedded numbers, trained with torch where that is installed."""

import importlib.util

import numpy as np

from allotment_learn.errors import FamilyUnavailable
from allotment_learn.families import constant
from allotment_learn.families.training import Training
from allotment_learn.forms import Fitted, Link, NetworkForm, Saved
from allotment_learn.networks.layout import Layout
from allotment_learn.networks.settings import Settings
from allotment_learn.networks.spec import Arrays, NetworkSpec

NEEDED = ("torch", "safetensors", "onnxscript")
_SPEC = "spec.json"


def unavailable_because() -> str:
    """Empty when the family can be trained here. Imports nothing: torch takes seconds."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not lacking:
        return ""
    return (
        f"mlp needs {', '.join(lacking)}: install `allotment[torch]`, with a CPU build of torch "
        "where there is no GPU"
    )


def fit(training: Training) -> Fitted:
    """Raises: FamilyUnavailable, InvalidArgument, NotANumber; DeadlineReached between batches;
    FitPaused; MemoryError."""
    if problem := unavailable_because():
        raise FamilyUnavailable(problem)
    matrix = training.matrix.astype(np.float32)
    layout = Layout.fit(matrix, Settings.of(training))
    if not len(layout.plain) and not len(layout.embedded):
        return constant.fit(training)
    # Optional, and slow to import.
    from allotment_learn.networks.fitting import fit_network  # noqa: PLC0415

    def glance(rung: int, done: int, spec: NetworkSpec, arrays: Arrays, state: Saved) -> None:
        if training.stages is not None:
            form = NetworkForm(spec, arrays, _link(training))
            training.stages.look(rung, done, _fitted(form, training.threads), state)

    spec, arrays = fit_network(training, matrix, layout, glance)
    return _fitted(NetworkForm(spec, arrays, _link(training)), training.threads)


def restore(training: Training, saved: Saved) -> Fitted:
    """Raises: FamilyUnavailable; ValueError when the arrays are not what `save` gave."""
    if problem := unavailable_because():
        raise FamilyUnavailable(problem)
    arrays = dict(saved)
    spec = NetworkSpec.from_json(arrays.pop(_SPEC).tobytes().decode())
    return _fitted(NetworkForm(spec, arrays, _link(training)), training.threads)


def _link(training: Training) -> Link:
    if not training.class_count:
        return Link.IDENTITY
    return Link.SIGMOID if training.class_count == 2 else Link.SOFTMAX


def _fitted(form: NetworkForm, threads: int) -> Fitted:
    from allotment_learn.networks.predicting import predictor  # noqa: PLC0415

    def save() -> Saved:
        spec = np.frombuffer(form.spec.to_json().encode(), dtype=np.uint8)
        return {**form.arrays, _SPEC: spec}

    return Fitted(predictor(form, threads), form, save)
