"""The sets that the benches run on: real ones with `ALLOTMENT_TEST_DATA`, else scikit-learn's."""

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

CLASSIFICATION = ("binary", "multiclass")


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularSet:
    """A CSV file with its target. `task`: binary, multiclass or regression."""

    name: str
    path: Path
    target: str
    task: str


def _shared() -> Iterator[TabularSet]:
    root = Path(os.environ["ALLOTMENT_TEST_DATA"])
    for entry in json.loads((root / "manifest.json").read_text(encoding="utf-8")):
        if entry["path"].startswith("tabular/"):
            yield TabularSet(
                name=entry["name"],
                path=root / entry["path"],
                target=entry["target"],
                task=entry["task"],
            )


def _bundled(folder: Path) -> Iterator[TabularSet]:
    loaders = {
        "breast_cancer": (load_breast_cancer, "binary"),
        "wine": (load_wine, "multiclass"),
        "digits": (load_digits, "multiclass"),
        "diabetes": (load_diabetes, "regression"),
    }
    for name, (load, task) in loaders.items():
        bunch = load()
        path = folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*map(str, bunch.feature_names), "target"])
            for features, target in zip(bunch.data, bunch.target, strict=True):
                label = target if task == "regression" else f"c{target}"
                writer.writerow([*map(float, features), label])
        yield TabularSet(name=name, path=path, target="target", task=task)


def tabular_sets(names: list[str] | None = None) -> list[TabularSet]:
    """All sets, or the named ones, in the manifest's order."""
    if os.environ.get("ALLOTMENT_TEST_DATA"):
        found = list(_shared())
    else:
        found = list(_bundled(Path(tempfile.mkdtemp(prefix="allotment-bench-"))))
    return [entry for entry in found if not names or entry.name in names]
