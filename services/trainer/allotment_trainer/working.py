"""A trainer at work: sessions, one after the other. Everything that needs gRPC is imported from
here.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from allotment_core.clock import SystemClock
from allotment_core.errors import InvalidArgument
from allotment_core.rpc.client import channel
from allotment_trainer.adapters.blobs import GrpcBlobStore
from allotment_trainer.adapters.data_cache import FolderCache
from allotment_trainer.adapters.nursery_client import NurseryClient
from allotment_trainer.adapters.token_file import TokenFile
from allotment_trainer.agent import (
    STATUS_BROKEN,
    STATUS_OVER,
    STATUS_SILENT,
    STATUS_STOPPED,
    Start,
    clear,
    grant_from_json,
    say,
)
from allotment_trainer.attempt_runner import AttemptRunner
from allotment_trainer.domain.lease import Ending, Grant
from allotment_trainer.processes import lines
from allotment_trainer.processes.lifeline import reap
from allotment_trainer.processes.preload import Offer
from allotment_trainer.session import Session

log = logging.getLogger(__name__)

TERM_GRACE_S = 5.0
_STATUS = {
    Ending.SILENT: STATUS_SILENT,
    Ending.BROKEN: STATUS_BROKEN,
    Ending.EXPIRED: STATUS_OVER,
}


class Worker:
    """Runs sessions for a trainer."""

    def __init__(self, start: Start, offer: Offer, nursery: NurseryClient) -> None:
        self._start = start
        self._offer = offer
        self._nursery = nursery
        self._cache = FolderCache(
            start.cache_dir / start.tenant.tenant_id, limit_bytes=start.cache_bytes
        )
        self._session: Session | None = None
        self._stop: float | None = None

    def stop(self, grace_s: float) -> None:
        """Ends the session under way within the grace, and starts no more."""
        self._stop = grace_s
        if self._session is not None:
            self._session.leave(Ending.STOPPED, grace_s)

    async def work(self, grant: Grant) -> Ending:
        """One session, from its start to its end."""
        clear(self._start.work_dir)
        async with contextlib.AsyncExitStack() as stack:
            if grant.dataset in ("", grant.server):
                opened = _channel(grant, grant.server, None)
                controller = dataset = await stack.enter_async_context(opened)
            else:
                opened = _channel(grant, grant.server, "controller")
                controller = await stack.enter_async_context(opened)
                opened = _channel(grant, grant.dataset, "dataset")
                dataset = await stack.enter_async_context(opened)
            blobs = GrpcBlobStore(dataset, self._start.tenant)
            runner = AttemptRunner(self._nursery, self._cache, blobs, self._start.work_dir)
            self._session = Session(grant, controller, runner, self._offer, SystemClock())
            if self._stop is not None:
                self._session.leave(Ending.STOPPED, self._stop)
            try:
                ending = await self._session.run()
            finally:
                self._session = None
        clear(self._start.work_dir)
        log.info("session over", extra={"lease": grant.lease, "ending": ending.value})
        return ending


async def serve(
    start: Start, offer: Offer, control: socket.socket, nursery_socket: socket.socket
) -> int:
    """Works until the host says stop or is gone; the exit status."""
    nursery = await NurseryClient.connect(nursery_socket)
    worker = Worker(start, offer, nursery)
    grants: asyncio.Queue[Grant | None] = asyncio.Queue()
    grants.put_nowait(start.grant)

    def stop(grace_s: float) -> None:
        worker.stop(grace_s)
        grants.put_nowait(None)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop, TERM_GRACE_S)
    listener = asyncio.create_task(_listen(control, start, grants, stop))
    try:
        while (grant := await grants.get()) is not None:
            ending = await worker.work(grant)
            if ending is Ending.BROKEN:
                return STATUS_BROKEN
            say(control, {"idle": {"ending": ending.value}})
        return STATUS_STOPPED
    finally:
        listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener
        nursery.close()


async def serve_once(
    start: Start, offer: Offer, nursery_socket: socket.socket, grace_s: float
) -> int:
    """Works for the one lease that it was started with; the exit status. After SIGTERM it hands in
    what it has, and leaves within the grace.
    """
    loop = asyncio.get_running_loop()
    # As the first process of a container it is the parent of whatever has lost its own.
    loop.add_signal_handler(signal.SIGCHLD, reap)
    nursery = await NurseryClient.connect(nursery_socket)
    worker = Worker(start, offer, nursery)
    loop.add_signal_handler(signal.SIGTERM, worker.stop, grace_s)
    ending = await worker.work(start.grant)
    nursery.close()
    return _STATUS.get(ending, STATUS_STOPPED)


def _channel(grant: Grant, address: str, service: str | None) -> grpc.aio.Channel:
    ca = Path(grant.ca) if grant.ca else None
    if grant.token_file is None:
        return channel(address, token=grant.token, ca=ca, service=service)
    return channel(
        address, token_source=TokenFile(grant.token_file, grant.token), ca=ca, service=service
    )


async def _listen(
    control: socket.socket,
    start: Start,
    grants: "asyncio.Queue[Grant | None]",
    stop: Callable[[float], None],
) -> None:
    """What the host says. Its end ends this trainer at once: nobody takes its results."""
    control.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=control, limit=lines.LONGEST_LINE_BYTES)
    try:
        while line := await reader.readline():
            message = lines.decode(line) or {}
            if "lease" in message:
                try:
                    grants.put_nowait(grant_from_json(message["lease"], start.tenant))
                except InvalidArgument as error:
                    log.error("lease refused", extra={"error": error.message})
                    say(control, {"idle": {"ending": Ending.EXPIRED.value}})
            elif "stop" in message:
                stop(float(message["stop"].get("grace_s", TERM_GRACE_S)))
    finally:
        writer.close()
    os._exit(STATUS_STOPPED)
