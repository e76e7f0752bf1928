"""The dataset service's settings."""

from dataclasses import dataclass
from pathlib import Path

from allotment_core.rpc.alone import ServerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """What `build` needs; the environment has each as ALLOTMENT_DATASET_<NAME>."""

    database_url: str
    """sqlite:////absolute/path."""
    blob_dir: Path
    """Where blobs are; on the same file system as `work_dir`, so that finished files are moved,
    not copied.
    """
    work_dir: Path
    """A folder for this service alone: uploads, which are kept, and files in the making, which
    are not.
    """
    max_upload_bytes: int = 16 << 30
    """Size of the largest file that can be uploaded."""
    max_blob_bytes: int = 8 << 30
    """Size of the largest blob that can be stored."""
    import_concurrency: int = 2
    """Imports that run at once; the rest wait in the order of their creation."""
    warm_children: int = 1
    """Parse processes that wait, started ahead."""
    parse_memory_bytes: int = 4 << 30
    """Address space of a parse process."""
    parse_cpu_s: int = 1800
    """Processor time of one import."""
    parse_wall_s: float = 3600.0
    """Time of one import."""
    parse_file_bytes: int = 16 << 30
    """Size of the largest file that an import may write."""
    collect_every_s: float = 600.0
    """How often bytes that nobody holds are looked for, and uploads that have expired."""
    collect_grace_s: float = 3600.0
    """How long bytes are kept after the last hold of them ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetServer(ServerConfig):
    """What serving the dataset service alone needs besides: ALLOTMENT_SERVE_<NAME>."""

    address: str = "127.0.0.1:50051"
