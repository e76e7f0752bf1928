"""Etags: what a caller last saw, so that it can't overwrite what it has not seen."""

import hashlib

from allotment_core.errors import Aborted, clip


def etag_of(content: bytes) -> str:
    """The etag of a resource's canonical bytes: 16 hex digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def check_etag(given: str, current: str, *, what: str) -> None:
    """Raises: Aborted (ETAG_MISMATCH) when `given` is not the current etag; "" agrees with any."""
    if given and given != current:
        raise Aborted(
            f"{what} was changed since you read it (its etag is {current!r}, "
            f"yours is {clip(given)!r}); read it again and repeat the change",
            reason="ETAG_MISMATCH",
        )
