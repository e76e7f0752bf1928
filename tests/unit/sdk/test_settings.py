"""Which server a client talks to: arguments, environment, profile, a server that runs here."""

import base64
import json
from pathlib import Path

import pytest

from allotment.settings import is_loopback, resolve, tenant_of_token
from allotment_core.errors import InvalidArgument


def token_for(payload: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"h.{body}.s"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def profile(home: dict[str, str], text: str) -> None:
    path = Path(home["HOME"]) / ".config" / "allotment" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def test_the_environment_names_the_server(home: dict[str, str]) -> None:
    env = {**home, "ALLOTMENT_SERVER": "127.0.0.1:1", "ALLOTMENT_TOKEN": "t"}
    found = resolve(env)
    assert (found.address, found.token, found.tenant) == ("127.0.0.1:1", "t", "tenants/local")
    assert found.plaintext


def test_arguments_win_over_the_environment(home: dict[str, str]) -> None:
    env = {**home, "ALLOTMENT_SERVER": "127.0.0.1:1", "ALLOTMENT_TOKEN": "t"}
    found = resolve(env, address="127.0.0.1:2", token="u", tenant="acme")
    assert (found.address, found.token, found.tenant) == ("127.0.0.1:2", "u", "tenants/acme")


def test_the_default_profile_is_used_and_another_can_be_named(home: dict[str, str]) -> None:
    profile(
        home,
        'default = "a"\n[profiles.a]\nserver = "one:1"\ntoken = "x"\n'
        '[profiles.b]\nserver = "two:2"\ntoken = "y"\nca = "/ca.pem"\n',
    )
    assert resolve(home).address == "one:1"
    found = resolve(home, profile="b")
    assert (found.address, found.token, found.ca) == ("two:2", "y", Path("/ca.pem"))


def test_a_missing_profile_is_an_error_that_lists_those_there_are(home: dict[str, str]) -> None:
    profile(home, '[profiles.a]\nserver = "one:1"\n')
    with pytest.raises(InvalidArgument, match="it has: a") as caught:
        resolve(home, profile="zzz")
    assert caught.value.reason == "BAD_PROFILE"


@pytest.mark.parametrize("text", ["not toml [", "[profiles]\na = 3", "[profiles.a]\nserver = 3"])
def test_a_bad_profile_file_is_an_error(home: dict[str, str], text: str) -> None:
    profile(home, text)
    with pytest.raises(InvalidArgument) as caught:
        resolve(home, profile="a")
    assert caught.value.reason == "BAD_PROFILE"


def test_a_server_in_the_default_folder_is_found(home: dict[str, str]) -> None:
    folder = Path(home["HOME"]) / ".local/share/allotment"
    folder.mkdir(parents=True)
    (folder / "address").write_text("127.0.0.1:9\n", encoding="utf-8")
    (folder / "token").write_text("t\n", encoding="utf-8")
    assert resolve(home).address == "127.0.0.1:9"


def test_no_server_says_what_to_do(home: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="allotment up") as caught:
        resolve(home)
    assert caught.value.reason == "NO_SERVER"


def test_no_token_says_what_to_do(home: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="ALLOTMENT_TOKEN") as caught:
        resolve(home, address="127.0.0.1:1")
    assert caught.value.reason == "NO_TOKEN"


@pytest.mark.parametrize("address", ["nonsense", "host:", ":1", "host:0", "host:99999", "host:x"])
def test_a_bad_address_is_refused(home: dict[str, str], address: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve(home, address=address, token="t")
    assert caught.value.reason == "BAD_ADDRESS"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("127.9.9.9:1", True),
        ("10.0.0.1:1", False),
        ("example.com:1", False),
    ],
)
def test_loopback_alone_is_plaintext(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_the_tenant_comes_from_the_token() -> None:
    assert tenant_of_token(token_for({"tenant": "tenants/acme"})) == "tenants/acme"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", token_for([]), token_for({"tenant": 3})])
def test_a_token_that_names_no_tenant_is_of_the_local_one(token: str) -> None:
    assert tenant_of_token(token) == "tenants/local"
