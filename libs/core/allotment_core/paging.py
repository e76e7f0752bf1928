"""Pages of lists: sizes and opaque tokens that are bound to the list that they came from."""

import base64
import binascii
import hashlib

from allotment_core.errors import FieldViolation, InvalidArgument, clip

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_SEAL_BYTES = 9
_LONGEST_TOKEN = 4096


def page_size(requested: int) -> int:
    """Rows of a page: 0 asks for the default, more than the maximum gets the maximum.

    Raises: InvalidArgument for a negative size.
    """
    if requested < 0:
        raise InvalidArgument(
            f"page_size is {requested}; it has to be 0 (the default) to {MAX_PAGE_SIZE}",
            reason="INVALID_PAGE_SIZE",
            violations=(FieldViolation("page_size", "has to be 0 or more"),),
        )
    return min(requested, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def encode_token(filter_key: str, cursor: str) -> str:
    """A token for the page after `cursor` of the list that `filter_key` names (parent, filters)."""
    payload = cursor.encode()
    return base64.urlsafe_b64encode(_seal(filter_key, payload) + payload).decode().rstrip("=")


def decode_token(token: str, filter_key: str) -> str:
    """The token's cursor; "" for an empty token, which is the first page.

    Raises: InvalidArgument (INVALID_PAGE_TOKEN) for a token that this list did not give out.
    """
    if not token:
        return ""
    try:
        if len(token) > _LONGEST_TOKEN:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        seal, payload = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if seal != _seal(filter_key, payload):
            raise ValueError("another list's")
        return payload.decode()
    except (ValueError, binascii.Error):
        raise InvalidArgument(
            f"page_token {clip(token)!r} does not belong to this list; "
            "repeat the call with the same parent and filters, or begin with an empty token",
            reason="INVALID_PAGE_TOKEN",
            violations=(
                FieldViolation("page_token", "has to be a next_page_token of the same list"),
            ),
        ) from None


def _seal(filter_key: str, payload: bytes) -> bytes:
    key = hashlib.sha256(filter_key.encode()).digest()
    return hashlib.blake2b(payload, key=key, digest_size=_SEAL_BYTES).digest()
