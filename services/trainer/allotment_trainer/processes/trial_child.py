"""The process of one trial: limits, a log, a trial function, and what it says in writing."""

import errno
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from allotment_core.errors import AllotmentError, ErrorKind
from allotment_trainer.domain.attempts import (
    TIMEOUT_MESSAGE,
    Finished,
    out_of_memory_message,
)
from allotment_trainer.domain.job import TrialJob
from allotment_trainer.domain.reports import Cause, Progress
from allotment_trainer.processes import limits, lines
from allotment_trainer.processes.lifeline import close_all_but, die_with

log = logging.getLogger(__name__)

RESULT_FILE = "result.json"

TrialFunction = Callable[[TrialJob, Path, Callable[[Progress], None]], Finished]
"""Runs a trial: (job, folder for its files, who is told after each fold) -> what it came to."""


def run(
    trial: TrialFunction, job: TrialJob, folder: Path, report_fd: int, log_fd: int, parent_pid: int
) -> NoReturn:
    """The whole life of a trial's process, after the fork. `report_fd` is a pipe that also shows
    that the nursery lives.
    """
    status = 70
    try:
        _settle(report_fd, log_fd, parent_pid)
        limits.apply(
            job.memory_bytes,
            limits.cpu_limit_s(job.deadline_monotonic, time.monotonic(), job.threads),
        )
        said = _attempt(trial, job, folder, report_fd)
        _write(folder / RESULT_FILE, said)
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends, whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # No teardown: native thread pools may hang in it.
        os._exit(status)


def _settle(report_fd: int, log_fd: int, parent_pid: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    die_with(parent_pid)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    close_all_but([report_fd])
    gc.enable()
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent_pid,), daemon=True).start()


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    os._exit(70)


def _attempt(trial: TrialFunction, job: TrialJob, folder: Path, report_fd: int) -> dict[str, Any]:
    def report(progress: Progress) -> None:
        lines.write(
            report_fd,
            {
                "finished_folds": progress.finished_folds,
                "fold_count": progress.fold_count,
                "score": progress.score,
                "fit_rung": progress.fit_rung,
            },
        )

    try:
        finished = trial(job, folder, report)
    except MemoryError:
        log.exception("out of memory")
        return _failure(
            Cause.OUT_OF_MEMORY, "OUT_OF_MEMORY", out_of_memory_message(job.memory_bytes)
        )
    except AllotmentError as error:
        log.exception("trial ended")
        return _known(error)
    except OSError as error:
        log.exception("trial ended")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the trainer's disk is full; make room or lower its cache's size"
            return _failure(Cause.CRASH, "DISK_FULL", message)
        return _failure(Cause.CRASH, "CRASH", "the trial could not read or write its files")
    except Exception as error:
        log.exception("trial ended")
        name = type(error).__name__
        return _failure(Cause.CRASH, "CRASH", f"the trial ended with an unexpected {name}")
    return {
        "finished": {
            "score": finished.score,
            "metrics": dict(finished.metrics),
            "fit_s": finished.fit_s,
            "fold_count": finished.fold_count,
            "validation_row_count": finished.validation_row_count,
            "graph": finished.graph,
            "reference": finished.reference,
            "predictions": finished.predictions,
        }
    }


def _known(error: AllotmentError) -> dict[str, Any]:
    if error.kind is ErrorKind.DEADLINE_EXCEEDED:
        return _failure(Cause.TIMEOUT, error.reason, error.message or TIMEOUT_MESSAGE)
    if error.kind in (ErrorKind.DATA_LOSS, ErrorKind.UNAVAILABLE, ErrorKind.INTERNAL):
        return _failure(Cause.CRASH, error.reason, error.message)
    return _failure(Cause.REFUSED, error.reason, error.message)


def _failure(cause: Cause, reason: str, message: str) -> dict[str, Any]:
    return {"failure": {"cause": cause.value, "reason": reason, "message": message}}


def _write(path: Path, said: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(said))
    temporary.rename(path)
