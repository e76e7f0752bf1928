"""The tokens of a local system."""

from datetime import timedelta
from pathlib import Path

from allotment_core.auth.tokens import TokenSigner, TokenVerifier, load_or_create_key
from allotment_embedded.state import locked
from allotment_embedded.tokens import InternalToken, lasting_token
from allotment_testkit.clock import ManualClock


def test_the_token_of_a_folder_lasts_until_it_nears_its_end(tmp_path: Path) -> None:
    clock = ManualClock()
    with locked(tmp_path) as state:
        signer = TokenSigner(load_or_create_key(state.key))
        verifier = TokenVerifier(signer.public_key_pem, clock)
        first = lasting_token(state, signer, verifier, clock)
        assert state.read_token() == first
        clock.advance(300 * 24 * 3600)
        assert lasting_token(state, signer, verifier, clock) == first
        clock.advance(40 * 24 * 3600)
        renewed = lasting_token(state, signer, verifier, clock)
        assert renewed != first
        assert verifier.verify(renewed).expires_at - clock.now() > timedelta(days=360)


def test_a_damaged_token_file_is_replaced(tmp_path: Path) -> None:
    clock = ManualClock()
    with locked(tmp_path) as state:
        signer = TokenSigner(load_or_create_key(state.key))
        verifier = TokenVerifier(signer.public_key_pem, clock)
        state.write("token", "garbage")
        assert verifier.verify(lasting_token(state, signer, verifier, clock))


def test_the_internal_token_never_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    signer = TokenSigner(load_or_create_key(tmp_path / "key.pem"))
    verifier = TokenVerifier(signer.public_key_pem, clock)
    source = InternalToken(signer, clock)
    for _ in range(10):
        assert verifier.verify(source())
        clock.advance(11 * 3600)
