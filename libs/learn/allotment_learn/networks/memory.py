"""Telling torch's want of memory from its other errors."""

import contextlib
from collections.abc import Iterator

from allotment_core.errors import clip


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """torch's allocator raises a RuntimeError; its text is the only sign. Raises: MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise MemoryError(clip(str(error), 200)) from None
        raise
