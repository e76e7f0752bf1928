"""The Helm chart, rendered by helm itself, as the objects that an API server would get."""

import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
CHART = Path(__file__).resolve().parents[3] / "helm" / "allotment"
RELEASE = NAMESPACE = "allotment"
HOOK = "helm.sh/hook"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where it was built."""


def why_no_helm() -> str:
    """Empty: charts can be rendered."""
    return "" if shutil.which("helm") else "helm is not on the PATH"


class Refused(Exception):
    """helm's own words."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All objects of a release, hooks among them."""

    text: str
    objects: tuple[Json, ...]

    def of(self, *kinds: str) -> list[Json]:
        return [each for each in self.objects if each["kind"] in kinds]

    def find(self, kind: str, name: str, namespace: str | None = None) -> Json | None:
        """By its full name; the only one."""
        found = [
            each
            for each in self.of(kind)
            if each["metadata"]["name"] == name
            and namespace in (None, each["metadata"].get("namespace"))
        ]
        assert len(found) < 2, f"{len(found)} objects {kind} {name}"
        return found[0] if found else None

    def one(self, kind: str, name: str, namespace: str | None = None) -> Json:
        """Raises: AssertionError when it isn't there."""
        found = self.find(kind, name, namespace)
        assert found is not None, f"no {kind} {name}"
        return found

    def names(self, kind: str) -> set[str]:
        return {each["metadata"]["name"] for each in self.of(kind)}

    def pods(self) -> Iterator[tuple[str, Json]]:
        """Whose, and the pod's template, of everything that makes pods."""
        for each in self.objects:
            template = template_of(each)
            if template is not None:
                yield f"{each['kind']} {each['metadata']['name']}", template


def template_of(item: Json) -> Json | None:
    """What an object makes pods from; None: it makes none."""
    if item["kind"] == "Pod":
        return item
    if item["kind"] == "CronJob":
        found: Json = item["spec"]["jobTemplate"]["spec"]["template"]
        return found
    if item["kind"] in ("Deployment", "StatefulSet", "Job"):
        template: Json = item["spec"]["template"]
        return template
    return None


def environment_of(template: Json) -> dict[str, str]:
    """The variables of a pod's one container that have a value of their own."""
    [container] = template["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def render(
    values: Mapping[str, Any] | None = None, release: str = RELEASE, namespace: str = NAMESPACE
) -> Rendered:
    """The chart with these values. Raises: Refused."""
    return _render(json.dumps(values or {}, sort_keys=True), release, namespace)


def render_afresh(values: Mapping[str, Any]) -> Rendered:
    """Once more, whatever is remembered. Raises: Refused."""
    return _render.__wrapped__(json.dumps(values, sort_keys=True), RELEASE, NAMESPACE)


@functools.lru_cache(maxsize=256)
def _render(values: str, release: str, namespace: str) -> Rendered:
    command = ["helm", "template", release, str(CHART), "--namespace", namespace, "--values", "-"]
    done = subprocess.run(command, input=values, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    objects = tuple(each for each in yaml.load_all(done.stdout, Loader=LOADER) if each)
    return Rendered(done.stdout, objects)


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Maps in maps joined, the last one counts."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, Mapping)
            result[key] = merged(old or {}, value) if both else value
    return result


def every(rendered: Rendered, wanted: Callable[[Json], bool]) -> list[str]:
    """Kinds and names of the objects that are so."""
    return [f"{o['kind']} {o['metadata']['name']}" for o in rendered.objects if wanted(o)]
