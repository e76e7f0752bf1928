"""Settings of a service that is served alone: what can't be meant is refused."""

from pathlib import Path

import pytest

from allotment_core.auth.tokens import TokenVerifier
from allotment_core.clock import SystemClock
from allotment_core.errors import InvalidArgument
from allotment_core.rpc.alone import ServerConfig
from allotment_testkit.authority import Authority
from allotment_testkit.rpc import new_signer
from allotment_testkit.stub_services import Stubs

LOCAL = "127.0.0.1:0"
VERIFIER = TokenVerifier(new_signer().public_key_pem, SystemClock())


def test_loopback_may_be_plaintext_and_nothing_else() -> None:
    assert ServerConfig(address=LOCAL).tls is None
    with pytest.raises(InvalidArgument, match="not loopback"):
        _ = ServerConfig(address="0.0.0.0:50051").tls


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    files = Authority().issue(tmp_path, "dataset")
    with pytest.raises(InvalidArgument, match="together"):
        _ = ServerConfig(address=LOCAL, certificate_file=files.certificate).tls
    both = ServerConfig(
        address="0.0.0.0:50051", certificate_file=files.certificate, private_key_file=files.key
    )
    assert both.tls is not None


def test_a_listener_for_services_needs_their_authority(tmp_path: Path) -> None:
    files = Authority().issue(tmp_path, "dataset")
    config = ServerConfig(
        address=LOCAL,
        services_address=LOCAL,
        certificate_file=files.certificate,
        private_key_file=files.key,
    )
    with pytest.raises(InvalidArgument, match="CA_FILE"):
        config.server([Stubs().service], VERIFIER, SystemClock())


def test_calls_to_services_need_a_certificate_or_a_token() -> None:
    with pytest.raises(InvalidArgument, match="TOKEN_FILE"):
        ServerConfig(address=LOCAL).channel_to("dataset", "127.0.0.1:1")
