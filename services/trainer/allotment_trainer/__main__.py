"""`python -m allotment_trainer`: a trainer for one lease, by itself, as in a container, where it is
the first process.

Exit status: 0 its work is done, or it was asked to leave; 64 its settings can't be used; 69 its
controller was silent for too long; 70 it can't run trials any more; 77 its lease is over, or
another's.
"""

import asyncio
import gc
import importlib
import os
import signal
import sys
from typing import NoReturn

from allotment_core import config as settings
from allotment_core.errors import AllotmentError, InvalidArgument
from allotment_core.events import configure_logging
from allotment_core.names import LeaseName
from allotment_trainer.agent import Start
from allotment_trainer.config import PREFIX, TrainerConfig
from allotment_trainer.domain.lease import Grant
from allotment_trainer.processes import limits, nursery, preload

STATUS_SETTINGS = 64


def _start(config: TrainerConfig) -> Start:
    lease = LeaseName.parse(config.lease)
    token = config.token
    if not token and config.token_file is not None:
        token = config.token_file.read_text(encoding="utf-8").strip()
    if not token:
        raise InvalidArgument(
            f"set {PREFIX}TOKEN or {PREFIX}TOKEN_FILE to the lease's token", reason="INVALID_CONFIG"
        )
    if config.ca is not None:
        # Read here, where it is a setting that can't be used.
        config.ca.read_bytes()
    grant = Grant(
        server=config.server,
        dataset=config.dataset,
        token=token,
        token_file=None if config.token else config.token_file,
        lease=str(lease),
        epoch=config.epoch,
        threads=config.threads,
        memory_bytes=config.memory_bytes,
        outlives_s=config.outlives_s,
        ca=str(config.ca) if config.ca else None,
    )
    return Start(
        trainer_id=lease.lease_id,
        tenant=lease.tenant,
        grant=grant,
        cache_dir=config.cache_dir,
        work_dir=config.work_dir,
        cache_bytes=config.cache_bytes,
    )


def _leave(_number: int, _frame: object) -> NoReturn:
    """Nothing has begun. The first process of a container has no default for signals."""
    os._exit(0)


def main() -> int:
    signal.signal(signal.SIGTERM, _leave)
    preload.prepare_environment()
    try:
        config = settings.load(TrainerConfig, os.environ, PREFIX)
        start = _start(config)
    except (AllotmentError, OSError) as error:
        print(f"allotment-trainer: {error}", file=sys.stderr)
        return STATUS_SETTINGS
    configure_logging("trainer", config.log_level)
    # A family's libraries are imported when its first trial comes: the others don't wait for them.
    preload.load()
    try:
        preload.register(config.families)
    except InvalidArgument as error:
        print(f"allotment-trainer: {error}", file=sys.stderr)
        return STATUS_SETTINGS
    offer = preload.offer()
    preload.forget_openmp_folder()
    _, nursery_socket = nursery.start(preload.trial_function())
    gc.enable()
    working = importlib.import_module("allotment_trainer.working")
    start = start.within(limits.room_bytes())
    serving = working.serve_once(start, offer, nursery_socket, config.grace_s)
    return int(asyncio.run(serving))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
