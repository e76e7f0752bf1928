"""Speaks the protocol of `allotment_trainer.host`; its trainers do nothing.

Tests make files in the folder FAKE_CONTROL: `idle.ID`, `exit.ID` tell a trainer's fate, `die` the
host's. FAKE_FAIL: every trainer fails at once.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

control = Path(os.environ["FAKE_CONTROL"])
children: dict[str, int] = {}


def say(what: str, **message: object) -> None:
    sys.stdout.write(json.dumps({what: message}) + "\n")
    sys.stdout.flush()


def fork() -> int:
    host = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(0)
        while os.getppid() == host:
            time.sleep(0.02)
        os._exit(0)
    return pid


def obey(line: str) -> None:
    [(what, message)] = json.loads(line).items()
    with (control / "orders").open("a") as orders:
        orders.write(line.strip() + "\n")
    trainer_id = message["id"]
    if what == "start":
        if os.environ.get("FAKE_FAIL"):
            say("exited", id=trainer_id, status=3, cause="CRASHED", log_tail="boom")
            return
        children[trainer_id] = fork()
        say("started", id=trainer_id, pid=children[trainer_id])
    elif what in ("stop", "kill") and trainer_id in children:
        end(trainer_id, "STOPPED")


def end(trainer_id: str, cause: str) -> None:
    pid = children.pop(trainer_id)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    say("exited", id=trainer_id, status=0, cause=cause, log_tail="")


def look() -> None:
    for file in control.iterdir():
        what, _, trainer_id = file.name.partition(".")
        if what == "die":
            file.unlink()
            os._exit(1)
        if what in ("idle", "exit"):
            file.unlink()
            if what == "idle":
                say("idle", id=trainer_id)
            elif trainer_id in children:
                end(trainer_id, "CRASHED")


time.sleep(float(os.environ.get("FAKE_IMPORT_S", "0")))
say("ready", pid=os.getpid())
pending = b""
while True:
    if select.select([0], [], [], 0.02)[0]:
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for order in lines:
            obey(order.decode())
    look()
