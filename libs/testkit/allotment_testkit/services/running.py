"""Starts the stores and keeps the services, until it is told to stop."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from allotment_core.rpc.client import OPTIONS
from allotment_testkit.postgres import VARIABLE as POSTGRES
from allotment_testkit.postgres import fresh_database, postgres_server
from allotment_testkit.s3 import s3_bucket, s3_server
from allotment_testkit.services.keeping import Keeper
from allotment_testkit.services.layout import STARTED, Layout, Stores

START_LIMIT_S = 110.0


def run(
    folder: Path | None,
    port: int,
    *,
    until_stdin_ends: bool,
    replicas: int = 1,
    more: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> int:
    """Until SIGTERM (exit status 0) or Ctrl-C (130). `folder`: None is one that is thrown away.
    `replicas`: of those that lead. `more`: further variables of services, by name.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="allotment-")))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            print(f"error: {folder} is not empty; choose another --dir", file=sys.stderr)
            return 1
        stores = _open_stores(stack)
        layout = Layout(folder.resolve(), stores, port=port, replicas=replicas, more=more)
        return asyncio.run(_serve(layout, until_stdin_ends))


def _open_stores(stack: contextlib.ExitStack) -> Stores:
    server = stack.enter_context(postgres_server())
    s3 = stack.enter_context(s3_server())
    # Servers of our own are gone at the end, with everything in them.
    if os.environ.get(POSTGRES):
        server = stack.enter_context(fresh_database(server))
    if s3.checks_keys:
        bucket = stack.enter_context(s3_bucket(s3))
    else:
        bucket = "allotment"
        s3.client().make_bucket(bucket)
    return Stores(database_url=server, s3=s3, bucket=bucket)


async def _serve(layout: Layout, until_stdin_ends: bool) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        loop.add_signal_handler(number, _end, ended, status)
    if until_stdin_ends:
        loop.add_reader(sys.stdin.fileno(), _end, ended, 0)
    keeper = Keeper(layout)
    keeper.start()
    try:
        up = asyncio.create_task(_until_serving(layout, keeper))
        await asyncio.wait((up, ended), return_when=asyncio.FIRST_COMPLETED)
        if up.done():
            up.result()
            _announce(layout)
        up.cancel()
        return await ended
    except TimeoutError:
        print(f"error: not all services came up; {layout.folder}/logs says why", file=sys.stderr)
        return 1
    finally:
        await keeper.stop()


def _end(ended: "asyncio.Future[int]", status: int) -> None:
    if not ended.done():
        ended.set_result(status)


async def _until_serving(layout: Layout, keeper: Keeper) -> None:
    """Asked through the gateway. Raises: TimeoutError, also when one ends again and again."""
    credentials = grpc.ssl_channel_credentials(layout.ca.read_bytes())
    names = ["", *(name for name in STARTED if name != "gateway")]
    async with (
        asyncio.timeout(START_LIMIT_S) as limit,
        grpc.aio.secure_channel(layout.address, credentials, options=OPTIONS) as channel,
    ):
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        keeper.on_hopeless = lambda: limit.reschedule(0)
        try:
            for name in names:
                while not await _says_serving(watch, name):
                    pass
        finally:
            keeper.on_hopeless = lambda: None


async def _says_serving(watch: Any, name: str) -> bool:
    """False: the stream ended before."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for answer in watch(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return True
    return False


def _announce(layout: Layout) -> None:
    print(f"{', '.join(layout.processes)} serve; the gateway on {layout.address}")
    for name in layout.processes:
        print(f"  {name:11} log {layout.log(name)}, metrics {layout.metrics(name)}")
    print(
        f"export ALLOTMENT_SERVER={layout.address} ALLOTMENT_CA={layout.ca} "
        f'ALLOTMENT_TOKEN="$(cat {layout.folder}/token)"'
    )
    print("Ctrl-C stops them and throws away what they have stored.", flush=True)
