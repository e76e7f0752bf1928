"""Allotment's client: `Client`, `AsyncClient`, their results and their errors.

    import allotment

    with allotment.Client() as client:
        data = client.upload("train.csv")
        experiment = client.create_experiment(data, target="species", budget_s=60)
        client.wait(experiment, progress=print)
        client.download_model(client.best_model(experiment), "out")

Names are loaded when they are first used, so that `import allotment` costs nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allotment import errors as errors
    from allotment.aio.client import AsyncClient as AsyncClient
    from allotment.sync.client import Client as Client
    from allotment.types import (
        Column as Column,
    )
    from allotment.types import (
        Dataset as Dataset,
    )
    from allotment.types import (
        DatasetVersion as DatasetVersion,
    )
    from allotment.types import (
        Experiment as Experiment,
    )
    from allotment.types import (
        ExperimentState as ExperimentState,
    )
    from allotment.types import (
        Export as Export,
    )
    from allotment.types import (
        ExportState as ExportState,
    )
    from allotment.types import (
        Family as Family,
    )
    from allotment.types import (
        Lease as Lease,
    )
    from allotment.types import (
        LeaseState as LeaseState,
    )
    from allotment.types import (
        Metric as Metric,
    )
    from allotment.types import (
        Model as Model,
    )
    from allotment.types import (
        ModelState as ModelState,
    )
    from allotment.types import (
        Node as Node,
    )
    from allotment.types import (
        NodeState as NodeState,
    )
    from allotment.types import (
        Pool as Pool,
    )
    from allotment.types import (
        TaskType as TaskType,
    )
    from allotment.types import (
        Tenant as Tenant,
    )
    from allotment.types import (
        Trial as Trial,
    )
    from allotment.types import (
        TrialState as TrialState,
    )
    from allotment.types import (
        Usage as Usage,
    )

_TYPES = (
    "Column Dataset DatasetVersion Experiment ExperimentState Export ExportState Family Lease "
    "LeaseState Metric Model ModelState Node NodeState Pool TaskType Tenant Trial TrialState Usage"
)
_MODULE_OF = {
    "AsyncClient": "allotment.aio.client",
    "Client": "allotment.sync.client",
    **dict.fromkeys(_TYPES.split(), "allotment.types"),
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("allotment.errors")
    if name == "__version__":
        try:
            return version("allotment")
        except PackageNotFoundError:
            return "0+unknown"
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'allotment' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_MODULE_OF, "errors", "__version__"])
