"""The parse child: one job, read as a line of JSON from stdin, answered by lines of JSON on stdout.

-> {"kind": "import" | "inspect", "job": {...}, "limits": {"memory_bytes", "cpu_s", "file_bytes"},
"answer": PATH} <- {"stage": "PARSE", "progress": 0.2} ...
<- {"done": true}                      the outcome is the JSON in the file at PATH
<- {"error": KIND, "reason": R, "message": M}
The libraries are imported before the job is read, so that a waiting child starts at once.
"""

import contextlib
import errno
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from allotment_core.errors import AllotmentError, InvalidArgument, ResourceExhausted
from allotment_dataset.domain.parsing import ImportJob, InspectJob
from allotment_dataset.domain.table_json import from_json, to_json
from allotment_dataset.parse import limits
from allotment_dataset.parse.job import run_import, run_inspection

_REPORT_INTERVAL_S = 0.2
_WARM_UP = b"number,date,word\n" + b"1.5,2026-01-02,a\n,2026-01-03,b\n" * 30


class _Reporter:
    """Writes progress lines, a few a second at most."""

    def __init__(self) -> None:
        self._last = 0.0
        self._stage = ""

    def __call__(self, stage: str, progress: float) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._last >= _REPORT_INTERVAL_S:
            self._stage, self._last = stage, now
            _say(stage=stage, progress=round(progress, 3))


def _say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _run(line: str) -> None:
    request = json.loads(line)
    limits.apply(limits.Limits(**request["limits"]))
    job = json.dumps(request["job"])
    if request["kind"] == "import":
        answer = to_json(run_import(from_json(ImportJob, job), _Reporter()))
    else:
        answer = to_json(run_inspection(from_json(InspectJob, job)))
    Path(request["answer"]).write_text(answer, encoding="utf-8")
    _say(done=True)


def _explain(error: BaseException) -> AllotmentError | None:
    """Errors that are the file's or the machine's, not the program's."""
    if isinstance(error, AllotmentError):
        return error
    if isinstance(error, MemoryError | pa.ArrowMemoryError):
        return ResourceExhausted(
            "reading the file took more memory than an import may use; split it, or raise "
            "ALLOTMENT_DATASET_PARSE_MEMORY_BYTES",
            reason="PARSE_LIMIT",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(
            "the disk of the dataset service is full; free space, then import again",
            reason="DISK_FULL",
        )
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return ResourceExhausted(
            "the table is larger than an import may write; split it, or raise "
            "ALLOTMENT_DATASET_PARSE_FILE_BYTES",
            reason="PARSE_LIMIT",
        )
    if isinstance(error, pa.ArrowException):
        return InvalidArgument(
            f"the file can't be read as a table: {str(error)[:200]}", reason="DAMAGED_FILE"
        )
    return None


def _warm_up() -> None:
    """Reads a tiny table: the libraries' first use of everything costs a fifth of a second."""
    with tempfile.TemporaryDirectory(prefix="allotment-parse-") as folder:
        source = Path(folder) / "source"
        source.write_bytes(_WARM_UP)
        job = ImportJob(source=str(source), source_sha256="", out_dir=folder, target_hint="word")
        run_import(job, lambda *_: None)


def main() -> int:
    limits.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    pa.set_cpu_count(2)
    with contextlib.suppress(OSError, AllotmentError):
        _warm_up()
    line = sys.stdin.readline()
    if not line:
        return 0
    limits.end_at_eof(sys.stdin.fileno())
    try:
        _run(line)
    except Exception as e:
        known = _explain(e)
        if known is None:
            raise
        _say(error=known.kind.value, reason=known.reason, message=known.message)
    sys.stdout.flush()
    os._exit(0)  # Nothing is left to do; the waiting thread and libraries need no goodbye.


if __name__ == "__main__":
    sys.exit(main())
