"""The exporter's settings."""

from dataclasses import dataclass
from pathlib import Path

from allotment_core.rpc.alone import ServerConfig
from allotment_exporter.domain.builds import BuildLimits
from allotment_exporter.domain.exporter import ExportLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterConfig:
    """What `build` needs; the environment has each as ALLOTMENT_EXPORTER_<NAME>."""

    database_url: str
    """sqlite:////absolute/path, or postgresql://user:password@host/database (docs/databases.md)."""
    work_dir: Path
    """A folder for this service alone; what it holds is gone after a restart."""
    concurrency: int = 2
    """Exports that are worked on at once."""
    queue_limit: int = 256
    """Exports of one tenant that wait."""
    graph_bytes: int = 512 << 20
    """Size of all graphs of an export together, and of the largest artefact."""
    reference_bytes: int = 256 << 20
    """Size of all references of an export together."""
    memory_bytes: int = 6 << 30
    """Address space of the process that builds one artefact."""
    cpu_s: int = 120
    """Processor time of one build."""
    wall_s: float = 180.0
    """Time of one build."""
    measure_s: float = 0.1
    """Time for measuring one artefact."""
    dataset_patience_s: float = 60.0
    """How long the dataset service may be away before an export fails."""

    @property
    def limits(self) -> ExportLimits:
        """What exports may use."""
        return ExportLimits(
            concurrency=self.concurrency,
            queue=self.queue_limit,
            graph_bytes=self.graph_bytes,
            reference_bytes=self.reference_bytes,
            build=BuildLimits(
                memory_bytes=self.memory_bytes,
                cpu_s=self.cpu_s,
                wall_s=self.wall_s,
                measure_s=self.measure_s,
                artefact_bytes=self.graph_bytes,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterServer(ServerConfig):
    """What serving the exporter alone needs besides: ALLOTMENT_SERVE_<NAME>."""

    address: str = "127.0.0.1:50055"
    dataset_address: str = "127.0.0.1:50051"
    """Where the dataset service serves services."""
