"""Writes the manifests of k8s/ from the chart.

    python k8s/render.py            what is committed
    python k8s/render.py FOLDER     into another folder, to compare

The base is what the chart makes with stores of one's own; the try-out adds the bundled ones. Helm's
labels and hooks go: the Job that makes secrets is a Job like any other, and what removes a release
is a folder of its own.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "allotment"
NAME = "allotment"
COMPONENT = "app.kubernetes.io/component"
STORES = ("postgresql", "minio")
INSTALL = "pre-install,pre-upgrade"
HEAD = (
    "# Written by k8s/render.py from helm/allotment: change that, and run make chart-manifests.\n"
)


def rendered(values: Path) -> list[Json]:
    """All objects of the chart with these values."""
    command = ["helm", "template", NAME, str(CHART), "--namespace", NAME, "--values", str(values)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [plain(item) for item in yaml.safe_load_all(text) if item]


def plain(item: Json) -> Json:
    """Without what Helm alone understands; hooks keep their kind under `hook` for a moment."""
    metadata = item["metadata"]
    annotations = metadata.get("annotations") or {}
    item["hook"] = annotations.get("helm.sh/hook", "")
    kept = {k: v for k, v in annotations.items() if not k.startswith("helm.sh/")}
    metadata.pop("annotations", None)
    if kept:
        metadata["annotations"] = kept
    without_helm(item)
    return item


def without_helm(part: Any) -> None:
    if isinstance(part, dict):
        labels = part.get("labels")
        if isinstance(labels, dict):
            labels.pop("helm.sh/chart", None)
            labels.pop("app.kubernetes.io/managed-by", None)
        for inner in part.values():
            without_helm(inner)
    elif isinstance(part, list):
        for inner in part:
            without_helm(inner)


def write(path: Path, items: Iterable[Json]) -> None:
    documents = [{k: v for k, v in item.items() if k != "hook"} for item in items]
    text = yaml.safe_dump_all(documents, sort_keys=False, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + text, encoding="utf-8")


def is_of_a_store(item: Json) -> bool:
    return item["metadata"]["labels"][COMPONENT] in STORES


def main(folder: Path) -> None:
    base = rendered(HERE / "base" / "values.yaml")
    with_stores = rendered(HERE / "try-out" / "values.yaml")
    write(folder / "base" / "allotment.yaml", (o for o in base if o["hook"] in ("", INSTALL)))
    write(folder / "try-out" / "stores.yaml", (o for o in with_stores if is_of_a_store(o)))
    write(folder / "uninstall" / "allotment.yaml", (o for o in base if o["hook"] == "post-delete"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
