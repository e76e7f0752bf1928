"""A file through WriteUpload against a plain HTTP PUT of the same file, on the same disk.

    python -m bench.upload [--size-mib 1024] [--repeat 5]

Both servers are processes of their own on this machine; both compute the sha256 and answer once
the file is synced. The clients of both compute the sha256 too and compare it with the answer; a
third column is the PUT whose client does not (curl -T). Pairs alternate, so that what else the
machine does hits both. The memory is the dataset service's largest over what it has when idle.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from allotment.connection import Connection
from allotment.settings import Settings
from allotment.upload import Upload
from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.names import TenantName
from bench.startup import environment, free_port

LIMIT_RATIO = 0.9
LIMIT_RSS_BYTES = 150 << 20
TENANT = "tenants/local"
MIB = 1 << 20
PLAIN_SERVER = """
import hashlib, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_PUT(self):
        left, digest = int(self.headers["content-length"]), hashlib.sha256()
        buffer = bytearray(1 << 20)
        with open(sys.argv[1], "wb", buffering=0) as file:
            while left:
                count = self.rfile.readinto(memoryview(buffer)[: min(left, len(buffer))])
                piece = memoryview(buffer)[:count]
                digest.update(piece)
                file.write(piece)
                left -= count
            os.fsync(file.fileno())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(digest.hexdigest().encode())

    def log_message(self, *arguments):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def write_csv(path: Path, size_bytes: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 20)).round(6).tolist()
    block = "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()
    with path.open("wb") as file:
        file.write((",".join(f"f{place}" for place in range(20)) + "\n").encode())
        while file.tell() < size_bytes:
            file.write(block)
        file.truncate(size_bytes)


def write_parquet(path: Path, size_bytes: int) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"f{place}": rng.normal(size=100_000) for place in range(20)})
    with pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as writer:
        while path.stat().st_size < size_bytes:
            writer.write_table(table)


class PlainPut:
    """The baseline: http.client to http.server, in pieces of 1 MiB."""

    def __init__(self, port: int, stored: Path) -> None:
        self._port = port
        self._stored = stored

    def send(self, path: Path, *, hashing: bool) -> float:
        started = time.perf_counter()
        digest = hashlib.sha256()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        with path.open("rb", buffering=0) as file:

            def pieces() -> Iterator[bytes]:
                while piece := file.read(MIB):
                    if hashing:
                        digest.update(piece)
                    yield piece

            size = str(path.stat().st_size)
            connection.request("PUT", "/", body=pieces(), headers={"Content-Length": size})
            answer = connection.getresponse().read().decode()
        elapsed_s = time.perf_counter() - started
        connection.close()
        if hashing and answer != digest.hexdigest():
            sys.exit("the plain server got other bytes")
        self._stored.unlink()
        return elapsed_s


@contextmanager
def plain_server(folder: Path) -> Iterator[PlainPut]:
    stored = folder / "plain"
    command = [sys.executable, "-c", PLAIN_SERVER, str(stored)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield PlainPut(int(process.stdout.readline()), stored)
        finally:
            process.kill()


class DatasetService:
    """The dataset service alone, and the SDK's way of sending a file to it."""

    def __init__(self, pid: int, settings: Settings) -> None:
        self._pid = pid
        self._settings = settings

    def send(self, path: Path) -> float:
        return asyncio.run(self._send(path, path.stat().st_size))

    async def _send(self, path: Path, size_bytes: int) -> float:
        connection = Connection(self._settings, patience_s=5.0, on_outage=None)
        started = time.perf_counter()
        with path.open("rb") as file:
            upload = Upload(connection, file, size_bytes)
            name = await upload.send(None)
            elapsed_s = time.perf_counter() - started
            await upload.drop(name)
        await connection.close()
        return elapsed_s

    def memory(self, field: str) -> int:
        """Bytes of a field of /proc/PID/status. Linux alone."""
        for line in Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise LookupError(field)

    def forget_peak(self) -> None:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="utf-8")


@contextmanager
def dataset_service(folder: Path) -> Iterator[DatasetService]:
    port = free_port()
    settings = environment("dataset", folder, port)
    settings["ALLOTMENT_DATASET_WARM_CHILDREN"] = "0"
    signer = TokenSigner(load_or_create_key(folder / "key.pem"))
    token = signer.issue("bench", TenantName.parse(TENANT), Role.EDITOR, 3_600, SystemClock().now())
    command = [sys.executable, "-m", "allotment_dataset"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env={**os.environ, **settings}, stderr=log) as process,
    ):
        service = DatasetService(
            process.pid,
            Settings(address=f"127.0.0.1:{port}", token=token, tenant=TENANT),
        )
        try:
            wait_until_served(service, folder)
            yield service
        finally:
            process.terminate()


def wait_until_served(service: DatasetService, folder: Path) -> None:
    small = folder / "small"
    small.write_bytes(b"a,b\n1,2\n")
    service.send(small)
    time.sleep(0.5)


def measure(path: Path, plain: PlainPut, service: DatasetService, repeat: int) -> dict[str, float]:
    ratios, bare_ratios, ours_s, plain_s = [], [], [], []
    size = path.stat().st_size
    for place in range(repeat + 1):
        order = [lambda: service.send(path), lambda: plain.send(path, hashing=True)]
        if place % 2:
            hashed, ours = order[1](), order[0]()
        else:
            ours, hashed = order[0](), order[1]()
        bare = plain.send(path, hashing=False)
        if place == 0:
            # Caches and connections are warm from here on.
            continue
        ours_s.append(ours)
        plain_s.append(hashed)
        ratios.append(hashed / ours)
        bare_ratios.append(bare / ours)
    return {
        "mib_per_s": size / MIB / statistics.median(ours_s),
        "plain_mib_per_s": size / MIB / statistics.median(plain_s),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "ratio_to_unhashed": statistics.median(bare_ratios),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    size_bytes = arguments.size_mib * MIB
    lowest = 1e9
    with tempfile.TemporaryDirectory(prefix="allotment-bench-") as name:
        folder = Path(name)
        files = {"csv": folder / "rows.csv", "parquet": folder / "rows.parquet"}
        write_csv(files["csv"], size_bytes)
        write_parquet(files["parquet"], size_bytes)
        with plain_server(folder) as plain, dataset_service(folder) as service:
            idle = service.memory("VmRSS")
            service.forget_peak()
            for kind, path in files.items():
                result = measure(path, plain, service, arguments.repeat)
                lowest = min(lowest, result["ratio"])
                print(kind, json.dumps({k: round(v, 3) for k, v in result.items()}), flush=True)
            over = service.memory("VmHWM") - idle
    print(
        f"ratio {lowest:.2f} (limit {LIMIT_RATIO}); memory {idle / MIB:.0f} MiB idle, "
        f"{over / MIB:.0f} MiB over it at most (limit {LIMIT_RSS_BYTES / MIB:.0f})"
    )
    return 0 if lowest >= LIMIT_RATIO and over <= LIMIT_RSS_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
