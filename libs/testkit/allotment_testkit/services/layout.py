"""What each process is told: addresses, certificates, databases, all in its environment."""

import json
import os
import random
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from allotment_core.auth.principal import Role
from allotment_core.auth.tokens import TokenSigner, load_or_create_key
from allotment_core.clock import SystemClock
from allotment_core.names import TenantName
from allotment_testkit.authority import Authority
from allotment_testkit.s3 import S3Server

HOST = "127.0.0.1"
STARTED = ("allocator", "dataset", "exporter", "controller", "gateway")
"""In this order."""
LEADING = ("allocator", "controller")
"""Those that can be told to run several times: "controller-2" stands by."""
TOKEN_TTL_S = 30 * 24 * 3600
# Below those that systems give to outgoing connections: a port stays free while its process is
# away, and nobody who tries to connect to it meets himself.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where everything is kept."""

    database_url: str
    s3: S3Server
    bucket: str


def free_ports() -> Iterator[int]:
    """Ports that nobody has at the moment, each once."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        yield port


class Layout:
    """One system in a folder: keys, certificates and a token are in it, a log per process."""

    def __init__(
        self,
        folder: Path,
        stores: Stores,
        *,
        port: int = 0,
        replicas: int = 1,
        more: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """`port`: the gateway's; 0 picks one. `replicas`: of those that lead. `more`: further
        variables, by service.
        """
        self._more = more
        self.folder = folder
        self._stores = stores
        free = free_ports()
        others = (f"{name}-{place}" for place in range(2, replicas + 1) for name in LEADING)
        self.processes = (*STARTED, *others)
        self._clients = {name: f"{HOST}:{next(free)}" for name in self.processes}
        if port:
            self._clients["gateway"] = f"{HOST}:{port}"
        self._services = {name: f"{HOST}:{next(free)}" for name in self.processes}
        self._health = {name: f"{HOST}:{next(free)}" for name in self.processes}
        self._metrics = {name: next(free) for name in self.processes}
        authority = Authority()
        self._tls = {name: authority.issue(folder / "tls" / name, name) for name in STARTED}
        self._write("ca.crt", authority.pem)
        signer = TokenSigner(load_or_create_key(folder / "key.pem"))
        token = signer.issue(
            "local-admin", TenantName("local"), Role.ADMIN, TOKEN_TTL_S, SystemClock().now()
        )
        self._write("token", token.encode())
        self._write("address", self.address.encode())
        pages = {name: self.metrics(name) for name in self.processes}
        self._write("health.json", json.dumps(self._health).encode())
        self._write("metrics.json", json.dumps(pages).encode())

    @property
    def address(self) -> str:
        """The one for clients."""
        return self._clients["gateway"]

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text(encoding="ascii")

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def metrics(self, name: str) -> str:
        return f"http://{HOST}:{self._metrics[name]}/metrics"

    def command(self, name: str) -> tuple[str, ...]:
        return (sys.executable, "-P", "-m", f"allotment_{service_of(name)}")

    def environment(self, name: str) -> Mapping[str, str]:
        """Of one process: this one's, without what is meant for somebody else."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ALLOTMENT_")}
        service = service_of(name)
        own = {
            "dataset": self._dataset,
            "controller": self._database,
            "allocator": lambda: self._allocator(name),
            "exporter": self._exporter,
            "gateway": self._gateway,
        }[service]()
        settings = {f"ALLOTMENT_{service.upper()}_{k}": str(v) for k, v in own.items()}
        served = {f"ALLOTMENT_SERVE_{k}": str(v) for k, v in self._serve(name).items()}
        return {**inherited, **settings, **served, "ORT_DISABLE_TELEMETRY": "1"} | {
            **self._more.get(service, {})
        }

    def _serve(self, name: str) -> Mapping[str, object]:
        service = service_of(name)
        tls = self._tls[service]
        listener = {
            "ADDRESS": self._clients[name],
            "HEALTH_ADDRESS": self._health[name],
            "METRICS_PORT": self._metrics[name],
            "CERTIFICATE_FILE": tls.certificate,
            "PRIVATE_KEY_FILE": tls.key,
        }
        if name == "gateway":
            return listener
        listener |= {"SERVICES_ADDRESS": self._services[name], "CA_FILE": tls.ca}
        if service == "allocator":
            return listener | {"KEY_FILE": self.folder / "key.pem"}
        # Everybody asks the allocator for the keys that verify tokens.
        called = {"controller": ("dataset", "exporter"), "exporter": ("dataset",)}
        others = ("allocator", *called.get(service, ()))
        return listener | {
            f"{other.upper()}_ADDRESS": _of(other, self._services) for other in others
        }

    def _database(self) -> dict[str, object]:
        return {"DATABASE_URL": self._stores.database_url}

    def _dataset(self) -> dict[str, object]:
        s3 = self._stores.s3
        return self._database() | {
            "WORK_DIR": self._work("dataset"),
            "BLOBS": f"s3://{self._stores.bucket}",
            "S3_ENDPOINT": s3.endpoint,
            "S3_REGION": "us-east-1",
            "S3_ACCESS_KEY": s3.access_key,
            "S3_SECRET_KEY": s3.secret_key,
        }

    def _allocator(self, name: str) -> dict[str, object]:
        return self._database() | {
            "WORK_DIR": self._work(name),
            "CACHE_DIR": self._work("cache"),
            "SERVER_ADDRESS": self.address,
            "SERVER_CA_FILE": self.ca,
        }

    def _exporter(self) -> dict[str, object]:
        return self._database() | {"WORK_DIR": self._work("exporter")}

    def _gateway(self) -> dict[str, object]:
        places = {
            f"{name.upper()}_ADDRESSES": _of(name, self._clients)
            for name in STARTED
            if name != "gateway"
        }
        return {**places, "SERVICES_CA_FILE": self.ca, "DRAIN_S": 1.0}

    def _work(self, name: str) -> Path:
        folder = self.folder / "work" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def service_of(process: str) -> str:
    return process.partition("-")[0]


def _of(service: str, addresses: Mapping[str, str]) -> str:
    """Those of all its processes."""
    return ",".join(at for name, at in addresses.items() if service_of(name) == service)
