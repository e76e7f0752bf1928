"""The gateway's settings."""

import pytest

from allotment_core.errors import InvalidArgument
from allotment_gateway.config import GatewayConfig


def test_each_service_needs_an_address() -> None:
    with pytest.raises(InvalidArgument, match="ALLOTMENT_GATEWAY_EXPORTER_ADDRESSES is empty"):
        GatewayConfig(exporter_addresses=())
