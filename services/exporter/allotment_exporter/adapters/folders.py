"""Working folders on disk."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_PREFIX = "export-"


class FolderWorkspace:
    """The Workspace port below one folder that belongs to this service alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def clear(self) -> None:
        """Makes the root, and removes what an earlier process left in it."""
        await asyncio.to_thread(self._clear)

    def _clear(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in self._root.glob(f"{_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """A private folder, removed with all its contents at the end."""
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root))
        try:
            yield path
        finally:
            # Not in a thread: a cancelled export has to be gone, too, when this returns.
            shutil.rmtree(path, ignore_errors=True)
