"""What an import may use, what becomes of its process, and full disks."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from grpc.aio import AioRpcError

from allotment_api.dataset.v1 import dataset_pb2 as pb
from allotment_core.rpc.client import from_rpc_error
from allotment_testkit.dataset_service import (
    TENANT,
    DatasetClient,
    dataset_service,
    iter_async,
    rid,
)

SMALL = b"a,b\n1,x\n2,y\n"


def children() -> list[psutil.Process]:
    """Parse children of this process."""
    return [
        c
        for c in psutil.Process().children(recursive=True)
        if "allotment_dataset.parse" in " ".join(c.cmdline())
    ]


async def until(condition: Any) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not happen")


async def test_memory_is_limited(tmp_path: Path) -> None:
    async with dataset_service(tmp_path, parse_memory_bytes=300 << 20) as client:
        row = b"x" * 7_000_000
        operation = await client.start_import(b"a,b\n" + (row + b",1\n") * 20)
        done = await client.ended(operation.name)
        assert done.state == pb.IMPORT_STATE_FAILED
        assert done.problem.reason == "PARSE_LIMIT"
        assert "ALLOTMENT_DATASET_PARSE_MEMORY_BYTES" in done.problem.message
        again = await client.start_import(SMALL)
        assert (await client.ended(again.name)).state != pb.IMPORT_STATE_RUNNING


async def test_time_is_limited(tmp_path: Path) -> None:
    async with dataset_service(tmp_path, parse_wall_s=0.3) as client:
        rows = b"1.5,some text that is long enough\n" * 2_000_000
        operation = await client.start_import(b"a,b\n" + rows)
        done = await client.ended(operation.name)
        assert done.problem.reason == "PARSE_LIMIT"
        assert children() == []


async def test_output_is_limited(tmp_path: Path) -> None:
    async with dataset_service(tmp_path, parse_file_bytes=10_000) as client:
        rows = "".join(f"{i * 0.37},v{i}\n" for i in range(5000))
        operation = await client.start_import(b"a,b\n" + rows.encode())
        done = await client.ended(operation.name)
        assert (done.state, done.problem.reason) == (pb.IMPORT_STATE_FAILED, "PARSE_LIMIT")


async def test_a_killed_child_is_tried_again(tmp_path: Path) -> None:
    async with dataset_service(tmp_path) as client:
        rows = b"1.5,some text that is long enough\n" * 1_000_000
        operation = await client.start_import(b"a,b\n" + rows)
        await until(children)
        children()[0].kill()
        done = await client.ended(operation.name)
        assert done.state == pb.IMPORT_STATE_SUCCEEDED, done.problem


async def test_a_child_waits_ahead_and_goes_with_the_service(tmp_path: Path) -> None:
    async with dataset_service(tmp_path, warm_children=1) as client:
        await until(children)
        first = children()[0].pid
        await client.imported(SMALL)
        await until(lambda: any(each.pid != first for each in children()))
    assert children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_no_child_outlives_a_killed_server(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import asyncio, pathlib, sys
        from allotment_testkit.dataset_service import dataset_service

        async def main():
            async with dataset_service(pathlib.Path(sys.argv[1]), warm_children=1) as client:
                await asyncio.sleep(1.0)
                rows = b"1.5,some text that is long enough\\n" * 3_000_000
                await client.start_import(b"a,b\\n" + rows)
                await asyncio.sleep(0.5)
                print("ready", flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    alive = psutil.Process(server.pid).children(recursive=True)
    assert alive
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    server.stdout.close()
    _, left = psutil.wait_procs(alive, timeout=20)
    assert left == []


def test_serving_starts_quickly_without_heavy_libraries(tmp_path: Path) -> None:
    script = (
        "import sys, allotment_dataset.__main__\n"
        "heavy = {'pyarrow', 'numpy', 'torch', 'sklearn', 'lightgbm', 'onnx', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
async def full_disk_client(small_disk: Path) -> AsyncIterator[DatasetClient]:
    async with dataset_service(small_disk) as client:
        yield client


@pytest.mark.root
async def test_a_full_disk_is_told_and_loses_nothing(
    small_disk: Path, full_disk_client: DatasetClient
) -> None:
    client = full_disk_client
    version = await client.imported(SMALL, "kept")
    name = (
        await client.datasets.CreateUpload(pb.CreateUploadRequest(request_id=rid(), parent=TENANT))
    ).upload.name
    chunk = os.urandom(1 << 20)
    chunks = [
        pb.WriteUploadRequest(name=name, offset=i << 20, data=chunk, last=False) for i in range(40)
    ]
    error = await _refused(client.datasets.WriteUpload(iter_async(chunks), timeout=30))
    assert (error.reason, error.kind.value) == ("DISK_FULL", "RESOURCE_EXHAUSTED")
    assert "full" in error.message
    error = await _refused(client.put_blob(bytes(4 << 20), f"{TENANT}/experiments/e"))
    assert error.reason == "DISK_FULL"
    content = await client.read_blob(f"{TENANT}/blobs/{version.table.part_sha256[0]}")
    assert len(content) == version.size_bytes
    deletion = pb.DeleteUploadRequest(request_id=rid(), name=name)
    await client.datasets.DeleteUpload(deletion)
    assert (await client.imported(SMALL, "after")).table.row_count == 2


@pytest.mark.root
async def test_an_import_on_a_full_disk_fails_clearly(
    small_disk: Path, full_disk_client: DatasetClient
) -> None:
    client = full_disk_client
    rows = "".join(f"{os.urandom(20).hex()},{i}\n" for i in range(120_000))
    upload = await client.upload(b"a,b\n" + rows.encode())
    free = psutil.disk_usage(str(small_disk)).free
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(max(0, free - (2 << 20))))
    answer = await client.datasets.CreateImport(
        pb.CreateImportRequest(request_id=rid(), parent=TENANT, upload=upload)
    )
    done = await client.ended(answer.operation.name)
    assert (done.state, done.problem.reason) == (pb.IMPORT_STATE_FAILED, "DISK_FULL")
    ballast.unlink()
    answer = await client.datasets.CreateImport(
        pb.CreateImportRequest(request_id=rid(), parent=TENANT, upload=upload)
    )
    done = await client.ended(answer.operation.name)
    assert done.state == pb.IMPORT_STATE_SUCCEEDED, done.problem


async def _refused(call: Any) -> Any:
    with pytest.raises(AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
