"""The client of a command."""

from allotment.cli.options import CHOICE, say
from allotment.sync.client import Client


def connect() -> Client:
    """A client for the server that options, environment or profile name; says when the server is
    away.
    """
    return Client(
        CHOICE.server,
        token=CHOICE.token,
        ca=CHOICE.ca,
        profile=CHOICE.profile,
        tenant=CHOICE.tenant,
        on_outage=say,
    )
