"""`python -m allotment_trainer`: a trainer for one lease, by itself. Exit status 0: its work is
done.
"""

import asyncio
import gc
import importlib
import os
import signal
import sys

from allotment_core import config as settings
from allotment_core.errors import AllotmentError, InvalidArgument
from allotment_core.events import configure_logging
from allotment_core.names import LeaseName
from allotment_trainer.agent import STATUS_STOPPED, Start
from allotment_trainer.config import PREFIX, TrainerConfig
from allotment_trainer.domain.lease import Grant
from allotment_trainer.processes import nursery, preload


def _start(config: TrainerConfig) -> Start:
    lease = LeaseName.parse(config.lease)
    token = config.token
    if not token and config.token_file is not None:
        token = config.token_file.read_text(encoding="utf-8").strip()
    if not token:
        raise InvalidArgument(
            f"set {PREFIX}TOKEN or {PREFIX}TOKEN_FILE to the lease's token", reason="INVALID_CONFIG"
        )
    grant = Grant(
        server=config.server,
        token=token,
        lease=str(lease),
        epoch=config.epoch,
        threads=config.threads,
        memory_bytes=config.memory_bytes,
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


def main() -> int:
    preload.prepare_environment()
    try:
        config = settings.load(TrainerConfig, os.environ, PREFIX)
        start = _start(config)
    except (AllotmentError, OSError) as error:
        print(f"allotment-trainer: {error}", file=sys.stderr)
        return 64
    configure_logging("trainer", config.log_level)
    # Until its work takes signals: as a container's first process it gets none otherwise.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(STATUS_STOPPED))
    preload.load()
    preload.forget_openmp_folder()
    _, nursery_socket = nursery.start(preload.trial_function())
    gc.enable()
    working = importlib.import_module("allotment_trainer.working")
    return int(asyncio.run(working.serve_once(start, preload.offer(), nursery_socket)))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
