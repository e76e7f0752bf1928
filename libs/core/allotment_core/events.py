"""Logs as events with fields: one JSON object per line.

`log.info("lease granted", extra={"lease": name, "slots": 2})` writes time, level, service, event
and the fields, and the id of the call that is being served, where there is one.
"""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from allotment_core.errors import InvalidArgument, clip

request_id_var: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the call that is being served, as the caller sees it in internal errors."""

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if request_id := request_id_var.get():
            event["call"] = request_id
        event.update((k, v) for k, v in vars(record).items() if k not in _PLAIN)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def configure_logging(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends every log of this process to `stream` (stderr by default) as events.

    Raises: InvalidArgument (INVALID_CONFIG) for a level that is none.
    """
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise InvalidArgument(
            f"the log level {clip(level)!r} is none of {', '.join(known)}", reason="INVALID_CONFIG"
        )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
