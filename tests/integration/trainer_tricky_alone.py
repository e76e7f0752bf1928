"""`python -m allotment_trainer` whose trials do tricks; with TRICKY_SLOW it never gets ready."""

import importlib
import os
import sys
import time

import numpy as np

from allotment_trainer import __main__ as alone
from allotment_trainer.processes import preload

tricky = importlib.import_module("trainer_tricky_host")


def _load() -> None:
    if os.environ.get("TRICKY_SLOW"):
        print("loading", file=sys.stderr, flush=True)
        time.sleep(600)
    importlib.import_module("allotment_api.trainer.v1.session_pb2")


if __name__ == "__main__":
    setattr(preload, "load", _load)  # noqa: B010
    setattr(preload, "trial_function", lambda: tricky.trial)  # noqa: B010
    offer = preload.Offer((preload.Family("constant", ""),), {"numpy": np.__version__})
    setattr(preload, "offer", lambda: offer)  # noqa: B010
    status = alone.main()
    sys.stderr.flush()
    os._exit(status)
