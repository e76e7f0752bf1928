"""A model on appended rows: its own trials again, no search."""

import random
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from allotment_testkit.services_system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def _write(path: Path, seed: int, count: int) -> Path:
    rng = random.Random(seed)
    rows = [(rng.random(), rng.choice(["red", "blue", ""])) for _ in range(count)]
    labels = ["yes" if a + (c == "red") * 0.4 + rng.gauss(0, 0.1) > 0.7 else "no" for a, c in rows]
    lines = [f"{a:.5f},{c},{label}" for (a, c), label in zip(rows, labels, strict=True)]
    path.write_text("\n".join(["size,color,wins", *lines]) + "\n")
    return path


def _answers(model: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    sizes = np.linspace(0, 1, 50)[:, None]
    colors = np.array([["red"], ["blue"], [""], ["new"], ["red"]] * 10, dtype=object)
    return np.asarray(session.run(["probabilities"], {"size": sizes, "color": colors})[0])


def test_a_model_is_made_anew_on_appended_rows(running_system: System, tmp_path: Path) -> None:
    with running_system.client() as client:
        first = client.datasets.upload(_write(tmp_path / "a.csv", 1, 200), target_hint="wins")
        experiment = client.experiments.create(first, target="wins", trials=3, seed=5)
        client.wait(experiment)
        old = client.models.best(experiment)
        dataset = first.name.rpartition("/versions/")[0]
        newer = client.datasets.upload(_write(tmp_path / "b.csv", 2, 80), append_to=dataset)

        begun = client.models.refit(old)
        assert begun.refit_of == old.name
        assert begun.dataset_version == newer.name
        client.wait(begun)
        made = client.models.best(begun)
        assert [m.weight for m in made.members] == [m.weight for m in old.members]
        assert [m.family for m in made.members] == [m.family for m in old.members]
        client.models.download(made, tmp_path / "new")
        assert (tmp_path / "new" / "manifest.json").is_file()

        # On the rows of the first time it is the same model.
        same = client.models.refit(old, data=first.name)
        client.wait(same)
        again = client.models.best(same)
        assert again.score == old.score
        client.models.download(old, tmp_path / "old")
        client.models.download(again, tmp_path / "again")
        before = _answers(tmp_path / "old" / "model.onnx")
        np.testing.assert_array_equal(_answers(tmp_path / "again" / "model.onnx"), before)
        assert not np.array_equal(_answers(tmp_path / "new" / "model.onnx"), before)
