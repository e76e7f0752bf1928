"""Process start to SERVING of each control-plane server, on an empty folder.

    python -m bench.startup [--repeat 5]

The baseline is a Python process that imports grpc.aio and starts an empty server on the same
machine.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from allotment_core.auth.tokens import TokenSigner, load_or_create_key

FOLDERS: dict[str, tuple[str, ...]] = {
    "dataset": ("BLOB_DIR", "WORK_DIR"),
    "controller": (),
    "allocator": ("WORK_DIR", "CACHE_DIR"),
    "exporter": ("WORK_DIR",),
    "baseline": (),
}
FORBIDDEN = ("torch", "sklearn", "lightgbm")
EMPTY_SERVER = """
import asyncio, sys, grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

async def main():
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(service: str, folder: Path, port: int) -> dict[str, str]:
    """The settings of one service alone, on an empty folder."""
    address = {"ALLOTMENT_SERVE_ADDRESS": f"127.0.0.1:{port}"}
    if service == "gateway":
        return address
    signer = TokenSigner(load_or_create_key(folder / "key.pem"))
    (folder / "public.pem").write_bytes(signer.public_key_pem)
    (folder / "token").write_text("unused", encoding="utf-8")
    own = {
        "DATABASE_URL": f"sqlite:///{folder}/{service}.db",
        **{name: f"{folder}/{name}" for name in FOLDERS[service]},
    }
    key = {"KEY_FILE": "key.pem"} if service == "allocator" else {"PUBLIC_KEY_FILE": "public.pem"}
    token = {"TOKEN_FILE": "token"} if service in ("controller", "exporter") else {}
    serve = {name: f"{folder}/{file}" for name, file in {**key, **token}.items()}
    return {
        **{f"ALLOTMENT_{service.upper()}_{name}": value for name, value in own.items()},
        **{f"ALLOTMENT_SERVE_{name}": value for name, value in serve.items()},
        **address,
    }


def seconds_to_serving(command: list[str], settings: dict[str, str], port: int) -> float:
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 20)]
    options += [("grpc.initial_reconnect_backoff_ms", 10), ("grpc.min_reconnect_backoff_ms", 10)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while time.perf_counter() - started < 30:
                if process.poll() is not None and process.stderr is not None:
                    sys.exit(f"{command} ended:\n{process.stderr.read().decode()}")
                try:
                    answer = check(health_pb2.HealthCheckRequest(), timeout=1)
                except grpc.RpcError:
                    time.sleep(0.005)
                    continue
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    elapsed_s = time.perf_counter() - started
                    reject_heavy_imports(command, process.pid)
                    return elapsed_s
        sys.exit(f"{command} does not serve after 30 s")
    finally:
        process.kill()
        process.wait()


def reject_heavy_imports(command: list[str], pid: int) -> None:
    """Libraries with compiled parts show in the process's memory map."""
    mapped = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    found = [name for name in FORBIDDEN if f"/{name}/" in mapped]
    if found:
        sys.exit(f"{command} has imported {found}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()

    def median(command: list[str], service: str) -> float:
        times = []
        for _ in range(arguments.repeat):
            with tempfile.TemporaryDirectory(prefix="allotment-bench-") as folder:
                port = free_port()
                filled = [part.replace("ADDRESS", f"127.0.0.1:{port}") for part in command]
                settings = environment(service, Path(folder), port)
                times.append(seconds_to_serving(filled, settings, port))
        return statistics.median(times)

    baseline_s = median([sys.executable, "-c", EMPTY_SERVER, "ADDRESS"], "baseline")
    print(f"{'empty server':12} {baseline_s:.3f} s")
    slowest_s = 0.0
    for service in ("dataset", "controller", "allocator", "exporter", "gateway"):
        median_s = median([sys.executable, "-m", f"allotment_{service}"], service)
        slowest_s = max(slowest_s, median_s)
        print(f"{service:12} {median_s:.3f} s  ratio {median_s / baseline_s:.2f}", flush=True)
    print(f"slowest: {slowest_s:.3f} s (limit 1.5 s)")
    return 0 if slowest_s < 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
