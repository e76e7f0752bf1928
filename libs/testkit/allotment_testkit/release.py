"""A Helm release on a real cluster, as its users have it: installed, reached, and taken away.

The cluster is what KUBECONFIG names, and needs a node that runs containers and has the images:
ALLOTMENT_TEST_IMAGE_TAG is their tag, ALLOTMENT_TEST_POSTGRES_IMAGE and ALLOTMENT_TEST_MINIO_IMAGE
the two stores' images (empty: those of the chart).
"""

import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import allotment

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "allotment"
ALLOTMENT = str(Path(sys.executable).with_name("allotment"))
TAG = "ALLOTMENT_TEST_IMAGE_TAG"
STORES = {
    "postgresql": "ALLOTMENT_TEST_POSTGRES_IMAGE",
    "minio": "ALLOTMENT_TEST_MINIO_IMAGE",
}
CALL_S = 120.0
INSTALL_S = 180.0


def why_unavailable() -> str:
    """What a test has to skip for; empty: a release can be installed."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG is not set: no Kubernetes cluster to test on"
    if not os.environ.get(TAG):
        return f"{TAG} is not set: no images to test (make images TAG=..., on the cluster's nodes)"
    missing = [name for name in ("kubectl", "helm") if shutil.which(name) is None]
    return f"not on the PATH: {', '.join(missing)}" if missing else ""


def run(*command: str, limit_s: float = CALL_S, text: str | None = None) -> str:
    """What the command prints. Raises: AssertionError with all that it said, when it fails."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=limit_s, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def kubectl(*arguments: str, text: str | None = None) -> str:
    return run("kubectl", *arguments, text=text)


def objects(*arguments: str) -> list[dict[str, Any]]:
    """What `kubectl get` lists."""
    found: list[dict[str, Any]] = json.loads(kubectl("get", *arguments, "-o", "json"))["items"]
    return found


def eventually(what: str, holds: Callable[[], Any], limit_s: float, pause_s: float = 0.5) -> Any:
    """Waits until `holds` is true, and returns it. Raises: AssertionError after the limit."""
    end = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(pause_s)
    return found


@dataclass(slots=True, kw_only=True)
class Release:
    """One release in a namespace of its own. `folder` keeps the files that clients need."""

    folder: Path
    name: str = "allotment"
    namespace: str = "allotment"
    values: Sequence[str] = ()
    """key=value, for every install and upgrade."""
    began_s: float = 0.0
    """Monotonic instant at which its last installation began."""

    @property
    def part_of(self) -> str:
        """Selects all that is made for this release."""
        return f"app.kubernetes.io/part-of=allotment,app.kubernetes.io/instance={self.name}"

    def _settings(self, more: Sequence[str]) -> list[str]:
        pairs = [f"image.tag={os.environ[TAG]}"]
        for store, variable in STORES.items():
            image = os.environ.get(variable)
            pairs += [f"{store}.image={image}"] if image else []
        return [part for pair in (*pairs, *self.values, *more) for part in ("--set", pair)]

    def install(self, *more: str) -> None:
        """As docs/kubernetes.md says. Returns when everything is ready."""
        self.began_s = time.monotonic()
        where = ("--namespace", self.namespace, "--create-namespace")
        run(
            *("helm", "install", self.name, str(CHART), *where, *self._settings(more)),
            *("--wait", "--timeout", f"{INSTALL_S:.0f}s"),
            limit_s=INSTALL_S + 30,
        )

    def upgrade(self, *more: str) -> None:
        run(
            *("helm", "upgrade", self.name, str(CHART), "--namespace", self.namespace),
            *(*self._settings(more), "--wait", "--timeout", f"{INSTALL_S:.0f}s"),
            limit_s=INSTALL_S + 30,
        )

    def uninstall(self) -> None:
        run("helm", "uninstall", self.name, "--namespace", self.namespace, limit_s=INSTALL_S)

    def secret(self, name: str, key: str) -> str:
        found = json.loads(self.kubectl("get", "secret", f"{self.name}-{name}", "-o", "json"))
        return base64.b64decode(found["data"][key]).decode()

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """In the namespace of the release."""
        return kubectl("--namespace", self.namespace, *arguments, text=text)

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Of this release, in whatever namespace."""
        selector = f"{self.part_of},app.kubernetes.io/component={component}"
        return objects("pods", "--all-namespaces", "--selector", selector)

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """127.0.0.1:port that leads to a Service's port."""
        to = (f"svc/{self.name}-{service}", f":{port}")
        with subprocess.Popen(
            ("kubectl", "--namespace", self.namespace, "port-forward", *to),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as forward:
            try:
                assert forward.stdout is not None
                said = forward.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+)", said)
                assert found, said
                yield f"127.0.0.1:{found.group(1)}"
            finally:
                forward.kill()

    def environment(self, address: str) -> dict[str, str]:
        """What makes every command and SDK client use this release as its first admin."""
        ca = self.folder / "ca.crt"
        ca.write_text(self.secret("ca", "ca.crt"), encoding="ascii")
        return {
            "ALLOTMENT_SERVER": address,
            "ALLOTMENT_TOKEN": self.secret("admin", "token").strip(),
            "ALLOTMENT_CA": str(ca),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A client's way to a release."""

    environment: Mapping[str, str]

    def client(self) -> "allotment.Client":
        settings = self.environment
        return allotment.Client(
            settings["ALLOTMENT_SERVER"],
            token=settings["ALLOTMENT_TOKEN"],
            ca=settings["ALLOTMENT_CA"],
        )

    def command(self, *arguments: str, limit_s: float = CALL_S) -> str:
        """`allotment ...` as a process of its own; what it prints."""
        done = subprocess.run(
            (ALLOTMENT, *arguments),
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """The same, going on in the background."""
        return subprocess.Popen(
            (ALLOTMENT, *arguments),
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def write_rows(path: Path, count: int = 600) -> None:
    """A table with numbers, words and gaps, and what to learn in the column `kind`."""
    rng = random.Random(0)
    lines = ["width,height,colour,kind"]
    for _ in range(count):
        width, height = rng.gauss(0, 1), rng.gauss(0, 1)
        colour = rng.choice(("red", "green", "blau", ""))
        kind = "big" if width * height + (colour == "red") + rng.gauss(0, 0.3) > 0.5 else "small"
        lines.append(f"{width:.4f},{height:.4f},{colour},{kind}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
