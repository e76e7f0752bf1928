"""Networks: their graphs predict what torch predicts, and a paused fit ends as if it never was."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from allotment_learn.checkpoints import CheckpointDamaged, FitPaused, Pace, Verdict
from allotment_learn.errors import DeadlineReached, FamilyUnavailable, NotANumber
from allotment_learn.families import linear, mlp
from allotment_learn.families.offered import fitter, offered_families
from allotment_learn.families.training import Training
from allotment_learn.forms import NetworkForm
from allotment_learn.task import Floats, SplitMethod, TaskKind
from allotment_learn.trial import run_trial
from allotment_search.pipeline import Component
from allotment_testkit.trials import (
    TOLERANCE,
    feeds_of,
    quirky_task,
    session_of,
    worst_difference,
)

needs_torch = pytest.mark.skipif(
    bool(mlp.unavailable_because()), reason=mlp.unavailable_because() or "torch is there"
)
SMALL = {"epochs": 4, "width": 12, "bins": 6}


def rings(rows: int, classes: int, metric: str = "log_loss") -> Training:
    """Points whose class is how far they are from the centre: no line divides them."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(rows, 3))
    radius = np.hypot(matrix[:, 0], matrix[:, 1])
    if classes:
        edges = np.quantile(radius, np.linspace(0, 1, classes + 1)[1:-1])
        target: np.ndarray = np.searchsorted(edges, radius)
    else:
        target = 1e4 + 1e3 * radius
    return Training(
        matrix=matrix,
        target=target,
        class_count=classes,
        weights=None,
        params={"epochs": 12, "width": 32},
        metric=metric,
        seed=5,
        threads=1,
        out_of_time=lambda: False,
    )


def error_of(training: Training, predictions: Floats) -> float:
    if not training.class_count:
        return float(np.sqrt(np.mean((predictions[:, 0] - training.target) ** 2)))
    chosen = predictions[np.arange(len(predictions)), training.target.astype(np.int64)]
    return float(-np.log(chosen).mean())


@needs_torch
@pytest.mark.parametrize(
    ("classes", "embedding"), [(0, "none"), (2, "piecewise"), (2, "periodic"), (3, "periodic")]
)
def test_learns_what_no_line_divides(classes: int, embedding: str) -> None:
    everything = rings(1_200, classes)
    first = replace(
        everything,
        matrix=everything.matrix[:800],
        target=everything.target[:800],
        params={**everything.params, "embedding": embedding},
    )
    rest = replace(everything, matrix=everything.matrix[800:], target=everything.target[800:])
    network, line = mlp.fit(first), linear.fit(first)
    assert error_of(rest, network.predict(rest.matrix)) < 0.75 * error_of(
        rest, line.predict(rest.matrix)
    )


@needs_torch
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "params", "target", "method"),
    [
        (TaskKind.BINARY, {"embedding": "piecewise", "norm": "batch"}, "identity", "FOLDS"),
        (TaskKind.MULTICLASS, {"embedding": "periodic", "norm": "layer"}, "identity", "FOLDS"),
        (TaskKind.REGRESSION, {"embedding": "none", "norm": "none"}, "log1p", "HOLD_OUT"),
    ],
)
def test_graph_predicts_what_torch_predicts(
    kind: TaskKind, params: dict[str, str], target: str, method: str, tmp_path: Path
) -> None:
    task = quirky_task(
        "mlp",
        kind,
        numeric=Component("impute", {"strategy": "mean", "indicator": True, "scale": "standard"}),
        category=Component("onehot", {"min_count": 2, "max_categories": 6}),
        target=target,
        method=SplitMethod[method],
        rows=140,
        params={**SMALL, **params},
    )
    outcome = run_trial(task, tmp_path, lambda _: None)
    with np.load(outcome.reference_path, allow_pickle=False) as reference:
        arrays = [reference[f"input_{i}"] for i in range(len(reference["columns"]))]
        expected = reference["expected"]
    session = session_of(outcome.graph_path)
    answers = session.run(None, feeds_of(session, arrays))[-1]
    assert worst_difference(answers, expected) <= TOLERANCE
    # Alone, a row gets the answer that it gets among others; none is none.
    alone = session.run(None, feeds_of(session, [cells[:1] for cells in arrays]))[-1]
    assert worst_difference(alone, answers[:1]) <= 1e-12
    nothing = session.run(None, feeds_of(session, [cells[:0] for cells in arrays]))[-1]
    assert nothing.shape == (0, answers.shape[1])
    _assert_bare(onnx.load(outcome.graph_path))


def _assert_bare(graph: onnx.ModelProto) -> None:
    """Nothing of torch's exporter: neither paths nor source lines nor its own names."""
    content = graph.SerializeToString()
    foreign = (b"torch", b".py", b"aten", b"networks.", sys.prefix.encode(), b"site-packages")
    assert not any(word in content for word in foreign)
    assert not any(node.metadata_props or node.doc_string or node.name for node in graph.graph.node)
    onnx.checker.check_model(graph, full_check=True)


class Stop:
    """Pauses after the given steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.asked: list[tuple[int, float]] = []

    def __call__(self, step: int, score: float) -> Verdict:
        self.asked.append((step, score))
        return Verdict.PAUSE if step in self.steps else Verdict.CONTINUE


def arrays_of(training: Training) -> dict[str, bytes]:
    form = mlp.fit(training).form
    assert isinstance(form, NetworkForm)
    return {name: array.tobytes() for name, array in form.arrays.items()}


def paused(training: Training, folder: Path, report: Callable[[int, float], Verdict]) -> Training:
    return replace(training, pace=Pace(folder, report))


@needs_torch
@pytest.mark.parametrize(
    ("classes", "params"),
    [(2, {"embedding": "periodic"}), (3, {"norm": "layer", "dropout": 0.3}), (0, {"patience": 3})],
)
def test_a_paused_fit_ends_as_the_whole_one_bit_by_bit(
    classes: int, params: dict[str, str | float], tmp_path: Path
) -> None:
    training = rings(300, classes)
    training = replace(training, params={**training.params, "dropout": 0.2, **params})
    whole = arrays_of(training)
    steps = []
    for _ in range(20):
        stop = Stop(*range(1, 20, 3))
        try:
            again = arrays_of(paused(training, tmp_path, stop))
            break
        except FitPaused as pause:
            steps.append(pause.step)
    assert len(steps) >= 2
    assert again == whole
    assert not list(tmp_path.iterdir())


@needs_torch
def test_a_checkpoint_is_numbers_and_their_description_alone(tmp_path: Path) -> None:
    training = rings(100, 2)
    with pytest.raises(FitPaused):
        mlp.fit(paused(training, tmp_path, Stop(2)))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert file.suffix == ".safetensors"
    assert b'"kind":"mlp"' in content[8 : 8 + length].replace(b"\\", b"")
    with pytest.raises(CheckpointDamaged, match="another fit"):
        mlp.fit(paused(replace(training, seed=6), tmp_path, Stop()))
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointDamaged, match="can't be read"):
        mlp.fit(paused(training, tmp_path, Stop()))


@needs_torch
def test_a_kept_network_comes_back_bit_by_bit() -> None:
    training = rings(200, 3)
    fitted = mlp.fit(training)
    assert fitted.save is not None
    again = mlp.restore(training, fitted.save())
    assert again.predict(training.matrix).tobytes() == fitted.predict(training.matrix).tobytes()


@needs_torch
def test_what_training_never_saw_says_nothing() -> None:
    training = rings(300, 2)
    # A column that is 1 for a value that no training row has.
    matrix = np.concatenate([training.matrix, np.zeros((300, 1))], axis=1)
    fitted = mlp.fit(replace(training, matrix=matrix))
    seen = fitted.predict(matrix)
    matrix[:, 3] = 1.0
    assert np.array_equal(fitted.predict(matrix), seen)


@needs_torch
def test_rows_without_weight_teach_nothing() -> None:
    training = rings(300, 2)
    weights = np.ones(300)
    weights[200:] = 0.0
    target = training.target.copy()
    weighted = mlp.fit(replace(training, weights=weights))
    target[200:] = 1 - target[200:]
    other = mlp.fit(replace(training, weights=weights, target=target))
    assert np.array_equal(weighted.predict(training.matrix), other.predict(training.matrix))


@needs_torch
@pytest.mark.parametrize("rows", [2, 3, 5])
@pytest.mark.parametrize("classes", [0, 2])
def test_few_rows_are_enough(rows: int, classes: int) -> None:
    training = rings(rows, classes)
    predictions = mlp.fit(training).predict(training.matrix)
    assert np.isfinite(predictions).all()


@needs_torch
def test_a_deadline_ends_a_fit_between_batches() -> None:
    with pytest.raises(DeadlineReached, match="in epoch 1"):
        mlp.fit(replace(rings(100, 2), out_of_time=lambda: True))


@needs_torch
def test_a_loss_that_is_no_number_ends_a_fit() -> None:
    training = rings(200, 0)
    wild = {**training.params, "learning_rate": 1e30, "norm": "none", "embedding": "none"}
    with pytest.raises(NotANumber, match="lower its learning rate"):
        mlp.fit(replace(training, params=wild))


@needs_torch
def test_want_of_memory_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: PLC0415 - optional

    from allotment_learn.networks.fitting import NetworkFit  # noqa: PLC0415

    monkeypatch.setattr(NetworkFit, "advance", lambda _: torch.empty(1 << 46))
    with pytest.raises(MemoryError, match="allocate"):
        mlp.fit(rings(60, 2))
    monkeypatch.setattr(NetworkFit, "advance", lambda _: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        mlp.fit(rings(60, 2))


def test_without_torch_the_family_says_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "NEEDED", ("torch", "no_such_library"))
    offered = {family.family: family for family in offered_families()}
    assert not offered["mlp"].available
    assert "no_such_library" in offered["mlp"].reason
    assert "allotment[torch]" in offered["mlp"].reason
    with pytest.raises(FamilyUnavailable, match="allotment"):
        fitter("mlp")
