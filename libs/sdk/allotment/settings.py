"""Which server a client talks to, and as whom.

Each of address, token and CA file is taken from the first of: the argument, the environment
(ALLOTMENT_SERVER, ALLOTMENT_TOKEN, ALLOTMENT_CA), the profile, the server that `allotment up` left
running in its default folder. Profiles stand in ~/.config/allotment/config.toml (XDG_CONFIG_HOME
is obeyed):

    default = "work"

    [profiles.work]
    server = "allotment.example.com:443"
    token_file = "~/.allotment-token"     # or token = "..."
    ca = "/etc/ssl/allotment.pem"
"""

import base64
import binascii
import ipaddress
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allotment_core.errors import InvalidArgument, clip

LOCAL_TENANT = "tenants/local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`tenant` is the one that names without a tenant belong to. `ca` is a PEM file, None:
    plaintext or system CAs.
    """

    address: str
    token: str
    ca: Path | None = None
    tenant: str = LOCAL_TENANT

    @property
    def plaintext(self) -> bool:
        """Loopback without a CA; everything else is TLS."""
        return self.ca is None and is_loopback(self.address)


def resolve(
    env: Mapping[str, str],
    *,
    address: str = "",
    token: str = "",
    ca: str | Path | None = None,
    profile: str = "",
    tenant: str = "",
) -> Settings:
    """The settings in force. Raises: InvalidArgument (NO_SERVER, NO_TOKEN, BAD_PROFILE,
    BAD_ADDRESS).
    """
    chosen = read_profile(config_file(env), profile or env.get("ALLOTMENT_PROFILE", ""))
    found_address = address or env.get("ALLOTMENT_SERVER", "") or chosen.get("server", "")
    found_token = token or env.get("ALLOTMENT_TOKEN", "") or _profile_token(chosen)
    found_ca = ca or env.get("ALLOTMENT_CA", "") or chosen.get("ca", "")
    if not found_address:
        found_address, left_token = _running_server(default_state_dir(env))
        found_token = found_token or left_token
    if not found_address:
        raise InvalidArgument(
            "no server is named; start one with `allotment up`, or set ALLOTMENT_SERVER=HOST:PORT",
            reason="NO_SERVER",
        )
    if not found_token:
        raise InvalidArgument(
            f"no token for the server {clip(found_address)}; set ALLOTMENT_TOKEN "
            "(`allotment up` leaves one in the file `token` of its folder)",
            reason="NO_TOKEN",
        )
    found_token = found_token.strip()
    return Settings(
        address=check_address(found_address),
        token=_check_token(found_token),
        ca=Path(found_ca).expanduser() if found_ca else None,
        tenant=_tenant_name(tenant or chosen.get("tenant", "")) or tenant_of_token(found_token),
    )


def _check_token(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgument(
            "the token has characters that no token has; copy it again", reason="BAD_TOKEN"
        )
    return token


def _tenant_name(tenant: str) -> str:
    return tenant if not tenant or tenant.startswith("tenants/") else f"tenants/{tenant}"


def config_file(env: Mapping[str, str]) -> Path:
    """Where profiles stand."""
    home = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or "~").expanduser() / ".config"
    return Path(home) / "allotment" / "config.toml"


def default_state_dir(env: Mapping[str, str]) -> Path:
    """Where `allotment up` keeps its state unless told."""
    home = env.get("XDG_DATA_HOME") or Path(env.get("HOME") or "~").expanduser() / ".local/share"
    return Path(home) / "allotment"


def read_profile(path: Path, name: str) -> Mapping[str, str]:
    """The named profile, or the default one; {} when neither is there.

    Raises: InvalidArgument (BAD_PROFILE) when the file is not readable as TOML or a named profile
    is missing.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InvalidArgument(
            f"the profile file {path} can't be read: {clip(e)}", reason="BAD_PROFILE"
        ) from e
    profiles = content.get("profiles", {})
    wanted = name or content.get("default", "")
    found = profiles.get(wanted) if isinstance(profiles, dict) else None
    if found is None:
        if not wanted:
            return {}
        known = ", ".join(sorted(profiles)) if profiles else "none"
        raise InvalidArgument(
            f"there is no profile {clip(wanted)!r} in {path}; it has: {known}",
            reason="BAD_PROFILE",
        )
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise InvalidArgument(
            f"profile {clip(wanted)!r} in {path} has to hold texts alone", reason="BAD_PROFILE"
        )
    return found


def _profile_token(profile: Mapping[str, str]) -> str:
    if "token_file" not in profile:
        return profile.get("token", "")
    path = Path(profile["token_file"]).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidArgument(
            f"the token file {path} can't be read: {clip(e)}", reason="BAD_PROFILE"
        ) from e


def _running_server(state_dir: Path) -> tuple[str, str]:
    """Address and token that a server in this folder left; empty where there is none."""
    try:
        address = (state_dir / "address").read_text(encoding="utf-8").strip()
        return address, (state_dir / "token").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return "", ""


def check_address(address: str) -> str:
    """HOST:PORT as gRPC takes it. Raises: InvalidArgument (BAD_ADDRESS)."""
    bare = address.strip().removeprefix("grpc://").removeprefix("https://").removeprefix("http://")
    bare = bare.rstrip("/")
    host, colon, port = bare.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(
            f"the server's address {clip(address)!r} has to be HOST:PORT", reason="BAD_ADDRESS"
        )
    return bare


def is_loopback(address: str) -> bool:
    """True when HOST of HOST:PORT is this very machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tenant_of_token(token: str) -> str:
    """The tenant that a token speaks for, unverified (the server verifies); tenants/local when it
    doesn't say.
    """
    parts = token.split(".")
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        payload = json.loads(base64.urlsafe_b64decode(padded))
        tenant = payload["tenant"]
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return LOCAL_TENANT
    return (_tenant_name(tenant) if isinstance(tenant, str) else "") or LOCAL_TENANT
