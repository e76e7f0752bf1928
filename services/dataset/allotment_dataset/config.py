"""The dataset service's settings."""

from dataclasses import dataclass, field
from pathlib import Path

from allotment_core.rpc.alone import ServerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """What `build` needs; the environment has each as ALLOTMENT_DATASET_<NAME>."""

    database_url: str
    """sqlite:////absolute/path, or postgresql://user:password@host/database (docs/databases.md)."""
    work_dir: Path
    """A folder for this service alone: uploads, which are kept, and files in the making, which
    are not.
    """
    blob_dir: Path | None = None
    """The folder of all blobs, when they are in no bucket; on the same file system as `work_dir`,
    so that finished files are moved, not copied.
    """
    blobs: str = ""
    """s3://bucket or s3://bucket/folder: where blobs are in place of `blob_dir`."""
    s3_endpoint: str = "https://s3.amazonaws.com"
    """https://host[:port] or http://host[:port] of the S3 server."""
    s3_region: str = ""
    """The bucket's region; empty: asked of the server."""
    s3_access_key: str = ""
    """With `s3_secret_key`. Without keys and key files those of the machine are looked for:
    AWS_* variables, profile file, web identity token, container, instance.
    """
    s3_secret_key: str = field(default="", repr=False)
    """With `s3_access_key`."""
    s3_access_key_file: Path | None = None
    """A file with the access key, read again for every request; with `s3_secret_key_file`."""
    s3_secret_key_file: Path | None = None
    """A file with the secret key."""
    s3_ca_file: Path | None = None
    """Certificates (PEM) to trust in place of the public ones."""
    s3_virtual_host: bool | None = None
    """Bucket in the host's name (true) or in the path (false); empty: as the host wants it."""
    s3_create_bucket: bool = True
    """Whether a bucket that is missing at the start is created."""
    s3_answer_s: float = 20.0
    """The longest silence of the S3 server that an attempt bears."""
    s3_concurrency: int = 16
    """Requests to the S3 server at once, and again so many blobs that are being read."""
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
