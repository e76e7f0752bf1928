"""A token in a file that somebody else renews."""

from pathlib import Path


class TokenFile:
    """The token of the moment: read at each call, as it was last while it can't be read."""

    def __init__(self, path: Path, token: str) -> None:
        self._path = path
        self._token = token

    def __call__(self) -> str:
        try:
            found = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            found = ""
        self._token = found or self._token
        return self._token
