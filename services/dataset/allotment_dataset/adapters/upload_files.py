"""Uploads' bytes as files: `<folder>/<tenant>/<upload>`."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from allotment_core.durable import sync_folder
from allotment_core.errors import DataLoss, InvalidArgument
from allotment_core.names import TenantName, UploadName
from allotment_dataset.adapters.disk import told_when_full
from allotment_dataset.adapters.write_behind import WriteBehind


class FolderUploadFile:
    """One upload's file. Disk work runs in worker threads, while the next chunks arrive."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Opens or creates the file and cuts it to the size. Blocks."""
        with told_when_full("the upload"):
            is_new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if is_new:
                sync_folder(path.parent)
        there = os.fstat(self._descriptor).st_size
        if there < size_bytes:
            os.close(self._descriptor)
            raise DataLoss(
                f"only {there} of the {size_bytes} received bytes are on the disk; upload the "
                "file again",
                reason="UPLOAD_DAMAGED",
            )
        os.ftruncate(self._descriptor, size_bytes)
        self._file = WriteBehind(self._descriptor, size_bytes, "the upload")

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    async def append(self, data: bytes) -> None:
        await self._file.append(data)

    async def same(self, offset: int, data: bytes) -> bool:
        await self._file.flush()
        there = await asyncio.to_thread(os.pread, self._descriptor, len(data), offset)
        return there == data

    async def sync(self) -> None:
        await self._file.sync()

    async def sha256(self) -> str:
        return await self._file.sha256()

    async def clear(self) -> None:
        await self._file.clear()

    async def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            await self._file.close()
            await asyncio.to_thread(os.close, descriptor)


class FolderUploadFiles:
    """All uploads' files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self, name: UploadName, size_bytes: int) -> FolderUploadFile:
        return await asyncio.to_thread(self._open, name, size_bytes)

    def _open(self, name: UploadName, size_bytes: int) -> FolderUploadFile:
        path = self.path(name)
        with told_when_full("the upload"):
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                sync_folder(path.parent.parent)
        return FolderUploadFile(path, size_bytes)

    def path(self, name: UploadName) -> Path:
        return self._folder / name.tenant.tenant_id / name.upload_id

    async def delete(self, name: UploadName) -> None:
        await asyncio.to_thread(self.path(name).unlink, missing_ok=True)

    async def keep_only(self, keep: Callable[[UploadName], Awaitable[bool]]) -> None:
        for path in await asyncio.to_thread(lambda: list(self._folder.glob("*/*"))):
            try:
                name = UploadName(TenantName(path.parent.name), path.name)
            except InvalidArgument:
                continue
            if not await keep(name):
                await asyncio.to_thread(path.unlink, missing_ok=True)
