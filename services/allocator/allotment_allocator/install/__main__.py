"""The chart's Jobs: `python -m allotment_allocator.install install | rotate | uninstall`.

install makes what a release needs and renews what ends, rotate renews certificates alone, uninstall
removes what is left of a release. Settings come from the environment, ALLOTMENT_INSTALL_<NAME>.
Exit status: 0 done, 1 refused, unreachable or done in part, 2 for settings that can't be used.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType

from allotment_allocator.adapters.kube.api import KubeApi, connection_of
from allotment_allocator.install import making
from allotment_allocator.install.config import PREFIX, InstallConfig
from allotment_allocator.install.objects import ReleaseObjects
from allotment_allocator.install.removal import Removal
from allotment_core.clock import SystemClock
from allotment_core.config import load
from allotment_core.errors import AllotmentError, InvalidArgument, Unavailable
from allotment_core.events import configure_logging

log = logging.getLogger("allotment_allocator.install")

QPS, BURST = 100.0, 100
_AGAIN_AFTER_S = 1.0


async def _make(api: KubeApi, config: InstallConfig, verb: str) -> bool:
    objects, clock = ReleaseObjects(api, config), SystemClock()
    work = making.install if verb == "install" else making.rotate
    async with asyncio.timeout(config.timeout_s):
        while True:
            try:
                await work(objects, config, clock)
                return True
            except Unavailable as e:
                log.warning("tried again", extra={"error": e.message})
                await asyncio.sleep(_AGAIN_AFTER_S)


async def _remove(api: KubeApi, config: InstallConfig, _verb: str) -> bool:
    return await Removal(api, ReleaseObjects(api, config), config).run()


VERBS: dict[str, Callable[[KubeApi, InstallConfig, str], Awaitable[bool]]] = {
    "install": _make,
    "rotate": _make,
    "uninstall": _remove,
}


async def _run(verb: str, config: InstallConfig) -> bool:
    api = KubeApi(connection_of(config.kubeconfig), QPS, BURST)
    try:
        return await VERBS[verb](api, config, verb)
    finally:
        await api.close()


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _leave)
    try:
        configure_logging("install", os.environ.get("ALLOTMENT_LOG_LEVEL", "INFO"))
        if len(arguments) != 1 or arguments[0] not in VERBS:
            raise InvalidArgument(f"say one of {', '.join(VERBS)}", reason="INVALID_CONFIG")
        config = load(InstallConfig, os.environ, PREFIX)
        return 0 if asyncio.run(_run(arguments[0], config)) else 1
    except AllotmentError as error:
        sys.stderr.write(f"{error} [{error.reason}]\n")
        return 2 if error.reason == "INVALID_CONFIG" else 1
    except TimeoutError:
        sys.stderr.write("the API server did not answer in time; it is safe to try again\n")
        return 1


def _leave(_number: int, _frame: FrameType | None) -> None:
    """At once: every write is whole by itself, and the next run goes on."""
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
