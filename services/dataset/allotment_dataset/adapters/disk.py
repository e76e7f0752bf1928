"""Files of this service on a disk that may be full."""

import contextlib
import errno
from collections.abc import Iterator

from allotment_core.errors import ResourceExhausted


@contextlib.contextmanager
def told_when_full(what: str) -> Iterator[None]:
    """Makes a full disk, or a used-up disk quota, a ResourceExhausted (DISK_FULL)."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceExhausted(
            f"the disk of the dataset service is full: {what} was not stored; free space there "
            "and try again",
            reason="DISK_FULL",
            retry_after_s=10.0,
        ) from e
