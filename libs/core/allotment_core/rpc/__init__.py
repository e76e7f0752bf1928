"""gRPC as Allotment speaks it: the server with its interceptors, the client channel.

`rpc.client` and `rpc.status` need the base install alone; the server is imported when asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from allotment_core.calls import current_principal
from allotment_core.rpc.service import Service
from allotment_core.rpc.tls import TlsFiles

if TYPE_CHECKING:
    from allotment_core.rpc.server import RpcServer, ServicesListener

__all__ = ["RpcServer", "Service", "ServicesListener", "TlsFiles", "current_principal"]


def __getattr__(name: str) -> Any:
    if name in ("RpcServer", "ServicesListener"):
        return getattr(importlib.import_module("allotment_core.rpc.server"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
