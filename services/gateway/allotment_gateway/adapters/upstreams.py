"""The services behind the gateway: a channel to each address, and whether it serves."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio

from allotment_core.rpc.addresses import is_loopback
from allotment_core.rpc.balancing import balanced_options
from allotment_core.rpc.client import OPTIONS
from allotment_gateway.domain.rotation import Rotation

log = logging.getLogger(__name__)


class Upstream:
    """One service."""

    def __init__(
        self, name: str, addresses: Sequence[str], ca: bytes | None, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self._channels = [_open(name, address, ca) for address in addresses]
        self._rotation = Rotation(self._channels)
        self._on_change = on_change
        self._watches: list[asyncio.Task[None]] = []

    @property
    def serving(self) -> bool:
        return self._rotation.any_serving

    def pick(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        return self._rotation.next()

    def start(self) -> None:
        self._watches = [
            asyncio.create_task(self._watch(channel), name=f"health of {self.name}")
            for channel in self._channels
        ]

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """A channel is READY while any process behind it serves."""
        while True:
            state = channel.get_state(try_to_connect=True)
            self._note(channel, state is grpc.ChannelConnectivity.READY)
            await channel.wait_for_state_change(state)

    def _note(self, channel: grpc.aio.Channel, serving: bool) -> None:
        before = self.serving
        self._rotation.set_serving(channel, serving)
        if self.serving != before:
            log.info("service changed", extra={"upstream": self.name, "serving": self.serving})
            self._on_change()


class Upstreams:
    """All of them, by name."""

    def __init__(
        self,
        addresses: Mapping[str, Sequence[str]],
        ca_file: Path | None,
        on_change: Callable[[], None],
    ) -> None:
        ca = ca_file.read_bytes() if ca_file else None
        self.by_name = {
            name: Upstream(name, each, ca, on_change) for name, each in addresses.items()
        }

    def start(self) -> None:
        for upstream in self.by_name.values():
            upstream.start()

    async def close(self) -> None:
        for upstream in self.by_name.values():
            await upstream.close()


def _open(service: str, address: str, ca: bytes | None) -> grpc.aio.Channel:
    options = (*OPTIONS, ("grpc.max_send_message_length", -1), *balanced_options(service))
    if ca is None and is_loopback(address):
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    return grpc.aio.secure_channel(address, credentials, options=options)
