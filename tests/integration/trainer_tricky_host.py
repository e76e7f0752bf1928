"""A trainer host whose trials do what their first choice says, instead of learning."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from allotment_core.errors import FailedPrecondition
from allotment_core.events import configure_logging
from allotment_trainer.checkpoints import FOLDS_DIR
from allotment_trainer.domain.attempts import Finished
from allotment_trainer.domain.job import TrialJob
from allotment_trainer.domain.reports import Progress
from allotment_trainer.host import serve
from allotment_trainer.processes import preload


def trial(job: TrialJob, folder: Path, report: Callable[[Progress], None]) -> Finished:
    choices = dict(job.choices)
    trick = choices["trick"]
    print(f"trick {trick}", flush=True)
    if trick in ("fit", "within"):
        report(Progress(finished_folds=0, fold_count=2, score=0.6, fit_rung=3))
    else:
        report(Progress(finished_folds=1, fold_count=2, score=0.5))
    if trick == "sleep":
        time.sleep(float(choices["seconds"]))
    elif trick == "spin":
        while True:
            pass
    elif trick == "eat":
        eaten = []
        while True:
            eaten.append(np.ones(8 << 20, dtype=np.uint8))
            time.sleep(0.005)
    elif trick == "gulp":
        np.ones(64 << 30, dtype=np.uint8)
    elif trick == "crash":
        os.abort()
    elif trick == "orphan":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    elif trick in ("folds", "fit"):
        name = "fold-001.npz" if trick == "folds" else "fit-000012.npz"
        fold = folder / FOLDS_DIR / name
        if not fold.exists():
            fold.parent.mkdir()
            fold.write_bytes(b"a fitted fold")
            time.sleep(600)
    elif trick == "refuse":
        raise FailedPrecondition("a prediction is not finite", reason="NOT_A_NUMBER")
    elif trick == "stumble":
        raise RuntimeError("/secret/path")
    for name in ("graph", "reference", "predictions"):
        (folder / name).write_bytes(f"{name} of {job.trial} {job.epoch}".encode() * 1000)
    return Finished(
        score=0.25,
        metrics={"rmse": 0.25},
        fit_s=0.1,
        fold_count=2,
        validation_row_count=10,
        graph="graph",
        reference="reference",
        predictions="predictions",
    )


if __name__ == "__main__":
    configure_logging("trainer")
    preload.load(["numpy", "allotment_api.trainer.v1.session_pb2"])
    family = preload.Family("constant", "")
    gone = preload.Family("lightgbm", "not here")
    serve(trial, preload.Offer((family, gone), {"numpy": np.__version__}))
    os._exit(0)
