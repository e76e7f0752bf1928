"""Optuna's gRPC storage proxy on a relational store, and clients that ask and tell.

python -m bench.coordination.proxy serve URL PORT
python -m bench.coordination.proxy work PORT SAMPLER SEED
"""

import signal
import subprocess
import sys
import time
from typing import Any

import optuna
from optuna.storages import GrpcStorageProxy, RDBStorage, run_grpc_proxy_server

from allotment_search import Grammar, TaskShape
from bench.suggest.space import distributions_of

STUDY = "bench"


def serve(url: str, port: int) -> None:
    storage = RDBStorage(url)
    optuna.create_study(study_name=STUDY, storage=storage)
    run_grpc_proxy_server(storage, host="127.0.0.1", port=port)


def work(port: int, sampler: str, seed: int) -> None:
    """Completes trials until it is terminated; then says when each one was complete."""
    shape = TaskShape(task="binary", row_count=1000, numeric_count=2, category_count=1)
    space = distributions_of(Grammar.load("tabular"), "lightgbm", shape)
    samplers: dict[str, Any] = {
        "random": optuna.samplers.RandomSampler(seed=seed),
        "tpe": optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    }
    storage = GrpcStorageProxy(host="127.0.0.1", port=port)
    storage.wait_server_ready(timeout=60)
    study = optuna.load_study(study_name=STUDY, storage=storage, sampler=samplers[sampler])
    while True:
        trial = study.ask(space)
        study.tell(trial, float(hash(str(trial.params)) % 1000))
        print(time.monotonic(), flush=True)


def trials_per_s(
    url: str, port: int, *, sampler: str, clients: int, warm_s: float, window_s: float
) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "bench.coordination.proxy"]
    server = subprocess.Popen([*command, "serve", url, str(port)], stderr=subprocess.DEVNULL)
    workers: list[subprocess.Popen[str]] = []
    try:
        time.sleep(1.0)
        workers = [
            subprocess.Popen(
                [*command, "work", str(port), sampler, str(seed)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for seed in range(clients)
        ]
        # The window begins when the last client has completed its first trial.
        firsts = [float(worker.stdout.readline()) for worker in workers if worker.stdout]
        begins = max(firsts) + warm_s
        ends = begins + window_s
        time.sleep(max(0.0, ends + 0.2 - time.monotonic()))
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        texts = [worker.communicate()[0] for worker in workers]
        done = [float(line) for text in texts for line in text.split()]
        return sum(begins <= at < ends for at in done) / window_s
    finally:
        for worker in workers:
            worker.kill()
        server.kill()
        server.wait()


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        work(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
