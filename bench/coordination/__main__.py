"""Durable suggest + complete per second over the real trainer session, beside Optuna's proxy.

    python -m bench.coordination [--stores sqlite postgres] [--samplers random tpe]
                                 [--clients 1 8] [--window-s 6] [--experiments 1]

Ours: the controller in a process of its own on its real store; simulated trainers over OpenSession
answer each assignment with a result at once. A trial counts when its result is acknowledged, which
is after the commit that also assigned the next one. Optuna: `run_grpc_proxy_server` on RDBStorage,
clients in processes of their own that ask for the same number of parameters and tell. Both on the
same kind of store, one after the other in the same run. PostgreSQL is ALLOTMENT_TEST_POSTGRES, or
one that pip brings, with fsync on.
"""

import argparse
import asyncio
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allotment_testkit.postgres import fresh_database, postgres_server, why_unavailable
from bench.coordination import proxy, sessions

LIMITS = {
    ("sqlite", "random"): 20.0,
    ("sqlite", "tpe"): 10.0,
    ("postgres", "random"): 3.0,
    ("postgres", "tpe"): 3.0,
}
"""Times Optuna's rate, at eight clients."""


@contextmanager
def database(store: str, server: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if store == "postgres":
        with fresh_database(server) as url:
            yield url
    else:
        yield f"sqlite:///{folder}/{store}.db"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def measure(
    store: str, server: str, sampler: str, clients: int, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Ours and Optuna's trials per second."""
    times = {"warm_s": arguments.warm_s, "window_s": arguments.window_s}
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as name:
        folder = Path(name)
        with database(store, server, folder) as url:
            ours, cpu_ms, origins = asyncio.run(
                sessions.trials_per_s(
                    folder,
                    free_port(),
                    url,
                    sampler=sampler,
                    clients=clients,
                    experiments=min(arguments.experiments, clients),
                    **times,
                )
            )
    if arguments.ours_alone:
        print(
            f"{store:9} {sampler:7} {clients} clients: {ours:7.1f}/s,"
            f" {cpu_ms:.1f} ms CPU a trial, {dict(origins)}",
            flush=True,
        )
        return ours, float("nan")
    with (
        tempfile.TemporaryDirectory(prefix="allotment-bench-") as name,
        database(store, server, Path(name)) as url,
    ):
        theirs = url.replace("postgresql://", "postgresql+psycopg://")
        optunas = proxy.trials_per_s(theirs, free_port(), sampler=sampler, clients=clients, **times)
    shares = ", ".join(f"{o} {n / origins.total():.0%}" for o, n in origins.most_common(3))
    print(
        f"{store:9} {sampler:7} {clients} clients: {ours:7.1f}/s, Optuna's proxy {optunas:6.1f}/s,"
        f"  ratio {ours / optunas:5.1f}  ({cpu_ms:.1f} ms CPU a trial; {shares})",
        flush=True,
    )
    return ours, optunas


def run(server: str, arguments: argparse.Namespace) -> bool:
    """Whether every limit held."""
    held = True
    for store in arguments.stores:
        for sampler in arguments.samplers:
            for clients in arguments.clients:
                ours, optunas = measure(store, server, sampler, clients, arguments)
                if clients == 8:
                    held = held and ours >= LIMITS[store, sampler] * optunas
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--experiments", type=int, default=1)
    parser.add_argument("--warm-s", type=float, default=3.0)
    parser.add_argument("--window-s", type=float, default=6.0)
    parser.add_argument("--ours-alone", action="store_true", help="leave Optuna out")
    arguments = parser.parse_args()
    if "postgres" in arguments.stores and (missing := why_unavailable()):
        print(missing)
        arguments.stores.remove("postgres")
    if "postgres" not in arguments.stores:
        return 0 if run("", arguments) else 1
    with postgres_server(durable=True) as server:
        return 0 if run(server, arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
