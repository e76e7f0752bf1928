"""The gateway's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allotment_core.errors import InvalidArgument
from allotment_core.rpc.alone import ListenerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Where calls go; the environment has each as ALLOTMENT_GATEWAY_<NAME>.

    Addresses are host:port, several separated by commas. Calls take turns over them, and over what
    each name stands for in DNS. They are those of the listeners for clients.
    """

    dataset_addresses: tuple[str, ...] = ("127.0.0.1:50051",)
    """Of the dataset service."""
    controller_addresses: tuple[str, ...] = ("127.0.0.1:50052",)
    """Of the controller."""
    allocator_addresses: tuple[str, ...] = ("127.0.0.1:50053",)
    """Of the allocator."""
    exporter_addresses: tuple[str, ...] = ("127.0.0.1:50055",)
    """Of the exporter."""
    services_ca_file: Path | None = None
    """PEM; the authority of the services' certificates. Empty: plaintext on loopback, the system's
    authorities elsewhere.
    """
    drain_notice_s: float = 0.0
    """How long health says NOT_SERVING before new calls are refused."""
    drain_s: float = 5.0
    """How long calls may go on after that."""

    def __post_init__(self) -> None:
        for name, addresses in self.addresses.items():
            if not addresses:
                raise InvalidArgument(
                    f"ALLOTMENT_GATEWAY_{name.upper()}_ADDRESSES is empty; it needs at least one "
                    "host:port",
                    reason="INVALID_CONFIG",
                )

    @property
    def addresses(self) -> Mapping[str, tuple[str, ...]]:
        """By service."""
        return {
            "dataset": self.dataset_addresses,
            "controller": self.controller_addresses,
            "allocator": self.allocator_addresses,
            "exporter": self.exporter_addresses,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayServer(ListenerConfig):
    """Where the gateway listens: ALLOTMENT_SERVE_<NAME>."""

    address: str = "127.0.0.1:8470"
