"""The client of a command."""

from typing import TYPE_CHECKING

from allotment.cli.options import CHOICE, say

if TYPE_CHECKING:
    from allotment.sync.client import Client


def connect() -> "Client":
    """A client for the server that options, environment or profile name; says when the server is
    away.
    """
    # Commands that need no server, and help, start without gRPC.
    from allotment.sync.client import Client  # noqa: PLC0415

    return Client(
        CHOICE.server,
        token=CHOICE.token,
        ca=CHOICE.ca,
        profile=CHOICE.profile,
        tenant=CHOICE.tenant,
        on_outage=say,
    )
