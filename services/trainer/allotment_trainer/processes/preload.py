"""Makes a process ready to fork trials: environment, libraries, no threads.

Imports take seconds, a fork milliseconds. What is imported here must not start threads: a forked
copy would miss them.
"""

import ctypes
import gc
import importlib
import importlib.metadata
import logging
import os
import site
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from allotment_core.errors import InvalidArgument
from allotment_trainer.config import PREFIX
from allotment_trainer.processes.trial_child import TrialFunction

log = logging.getLogger(__name__)

ENVIRONMENT: Mapping[str, str] = {
    # Waiting threads sleep: with fewer cores than threads, spinning makes fits 100 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    # One thread until a trial says how many it has; pools of a parent don't survive a fork.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Arrow: no thread at its import, no reserved gigabytes that count against a trial's limit.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # onnxruntime writes files and looks up its vendor's host otherwise.
    "ORT_DISABLE_TELEMETRY": "1",
    "LOKY_MAX_CPU_COUNT": str(os.cpu_count() or 1),
}

MODULES: Sequence[str] = (
    "allotment_trainer.fit",
    # What Arrow and joblib import when they are first used.
    "pyarrow.pandas_compat",
    "multiprocessing.dummy",
    "allotment_api.trainer.v1.session_pb2",
    "allotment_api.dataset.v1.blob_pb2",
)
MORE: Mapping[str, Sequence[str]] = {
    # Its module imports the library when it is first used.
    "lightgbm": ("lightgbm",),
    # With what torch's exporter imports when it is first used: 3 s and 250 MB in all.
    "mlp": (
        "allotment_learn.networks.fitting",
        "allotment_learn.graph.network",
        "torch._dynamo",
        "onnxscript",
    ),
}
"""What a family needs beyond its own module."""
SLOW = frozenset({"mlp"})
"""Families that no process loads before their first trial comes."""
LIBRARIES = ("lightgbm", "numpy", "onnx", "pyarrow", "scikit-learn", "scipy", "torch")

_OPENMP = "libgomp.so.1"
_OPENMP_TRIED = "ALLOTMENT_PRIVATE_OPENMP"


@dataclass(frozen=True, slots=True)
class Family:
    """A model family and, unless it is empty, why it can't be trained here."""

    name: str
    unavailable: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What this machine's trainers can do."""

    families: tuple[Family, ...]
    library_versions: Mapping[str, str]


def prepare_environment() -> None:
    """Called before any heavy import. May start this program again: the place where the loader
    looks for libraries can only be set from outside.

    LightGBM needs the system's OpenMP runtime, which a bare machine doesn't have, while
    scikit-learn's wheel brings a copy of the same library under a name of its own. Under the
    system's name, in a private folder, it serves both (and the loader takes it once: it is the same
    file).
    """
    os.environ.update(ENVIRONMENT)
    if sys.platform != "linux" or _OPENMP_TRIED in os.environ or _has_openmp():
        return
    bundled = bundled_openmp()
    if bundled is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="allotment-openmp-"))
    (folder / _OPENMP).symlink_to(bundled)
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = f"{folder}:{before}" if before else str(folder)
    os.environ[_OPENMP_TRIED] = str(folder)
    os.execv(sys.executable, sys.orig_argv)


def forget_openmp_folder() -> None:
    """Removes the private folder once the library is loaded."""
    folder = os.environ.get(_OPENMP_TRIED)
    if folder:
        (Path(folder) / _OPENMP).unlink(missing_ok=True)
        Path(folder).rmdir() if Path(folder).is_dir() else None


def _has_openmp() -> bool:
    try:
        ctypes.CDLL(_OPENMP)
    except OSError:
        return False
    return True


def bundled_openmp() -> Path | None:
    folders = [*site.getsitepackages(), *sys.path]
    for folder in folders:
        found = sorted(Path(folder or ".").glob("scikit_learn.libs/libgomp-*.so*"))
        if found:
            return found[0].resolve()
    return None


def load(modules: Iterable[str] = MODULES) -> None:
    """Imports what every trial needs."""
    _import(modules)
    gc.collect()
    gc.disable()
    gc.freeze()


def register(modules: Iterable[str]) -> None:
    """Adds the model families of these modules. Raises: InvalidArgument (INVALID_CONFIG)."""
    try:
        _offered().register(modules)
    except (ImportError, ValueError) as error:
        raise InvalidArgument(
            f"a model family can't be registered: {error}; see {PREFIX}FAMILIES",
            reason="INVALID_CONFIG",
        ) from error


def load_families() -> None:
    """Imports what the families need that can be trained here, but for the slow ones."""
    for family in _offered().offered_families():
        if family.available and family.family not in SLOW:
            load_for(family.family)


def load_for(family: str) -> None:
    """Imports what the family alone needs, once. What can't be imported fails in the trial, which
    can say so."""
    own = _offered().modules(family)
    modules = [m for m in (*own, *(MORE.get(family, ()) if own else ())) if m not in sys.modules]
    if not modules:
        return
    try:
        _import(modules)
    except (ImportError, OSError) as error:
        log.warning("family can't be loaded", extra={"family": family, "error": str(error)})
    gc.collect()
    gc.freeze()


def _offered() -> ModuleType:
    return importlib.import_module("allotment_learn.families.offered")


def _import(modules: Iterable[str]) -> None:
    # LightGBM imports pandas where it is installed: 0.4 s for data frames that no trial has.
    hidden = "pandas" not in sys.modules
    if hidden:
        sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        if hidden:
            del sys.modules["pandas"]
    if (threads := thread_count()) > 1:
        log.warning("imports have started threads", extra={"threads": threads})


def offer() -> Offer:
    """What can be trained here, after `load`."""
    offered = _offered().offered_families()
    return Offer(
        tuple(
            Family(f.family, "" if f.available else f.reason or "not installed") for f in offered
        ),
        {name: v for name in LIBRARIES if (v := _version(name))},
    )


def trial_function() -> TrialFunction:
    """What runs a trial in this product, after `load`."""
    run: TrialFunction = importlib.import_module("allotment_trainer.fit").run
    return run


def thread_count() -> int:
    """Threads of this process; 1 where that can't be found out."""
    tasks = Path("/proc/self/task")
    return sum(1 for _ in tasks.iterdir()) if tasks.is_dir() else 1


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
