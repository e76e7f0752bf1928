"""The services behind the gateway: a channel to each address, and whether it serves."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio

from allotment_core.rpc.addresses import is_loopback
from allotment_core.rpc.balancing import balanced_options
from allotment_core.rpc.client import LOOK_AT_FILES_S, OLD_CHANNEL_S, OPTIONS
from allotment_core.rpc.tls import WatchedAuthority
from allotment_gateway.domain.rotation import Rotation

log = logging.getLogger(__name__)

SETTLE_S = 10.0
"""The longest that new channels have to find out who serves, before they are used anyway."""
LOOK_AT_HEALTH_S = 0.05


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

    async def close(self, grace_s: float | None = None) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.gather(*(channel.close(grace_s) for channel in self._channels))

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
        self._addresses = addresses
        self._authority = WatchedAuthority(ca_file) if ca_file else None
        self._on_change = on_change
        self.by_name = self._all()
        self._following: asyncio.Task[None] | None = None
        self._closing: dict[asyncio.Task[None], Upstream] = {}

    def start(self) -> None:
        for upstream in self.by_name.values():
            upstream.start()
        if self._authority is not None:
            self._following = asyncio.create_task(self._follow(self._authority))

    async def close(self) -> None:
        closing = dict(self._closing)
        tasks = [*closing, *((self._following,) if self._following else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for upstream in (*self.by_name.values(), *closing.values()):
            await upstream.close()

    def _all(self) -> dict[str, Upstream]:
        ca = self._authority.pem if self._authority else None
        return {
            name: Upstream(name, each, ca, self._on_change)
            for name, each in self._addresses.items()
        }

    async def _follow(self, authority: WatchedAuthority) -> None:
        """A replaced authority counts without a restart."""
        while True:
            await asyncio.sleep(LOOK_AT_FILES_S)
            if authority.changed() is not None:
                await self._take_over()

    async def _take_over(self) -> None:
        """New calls go by new channels, once these serve; what runs on old ones goes on a while."""
        old, new = self.by_name, self._all()
        try:
            for upstream in new.values():
                upstream.start()
            await _settled(old, new)
        except asyncio.CancelledError:
            for upstream in new.values():
                await upstream.close()
            raise
        self.by_name = new
        self._on_change()
        for upstream in old.values():
            closing = asyncio.create_task(upstream.close(OLD_CHANNEL_S))
            self._closing[closing] = upstream
            closing.add_done_callback(self._closing.pop)


async def _settled(old: Mapping[str, Upstream], new: Mapping[str, Upstream]) -> None:
    """Until whoever served by the old channels serves by the new ones, or SETTLE_S is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while any(old[n].serving and not new[n].serving for n in old):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AT_HEALTH_S)


def _open(service: str, address: str, ca: bytes | None) -> grpc.aio.Channel:
    options = (*OPTIONS, ("grpc.max_send_message_length", -1), *balanced_options(service))
    if ca is None and is_loopback(address):
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    return grpc.aio.secure_channel(address, credentials, options=options)
