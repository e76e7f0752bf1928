"""What a file system needs to be told so that a file survives a power cut."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Makes names that were created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
