"""Reads one job, builds, ends. Everything heavy is imported before the job comes."""

import os
import sys

# onnxruntime reads it when it is imported: nothing is ever sent anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from allotment_exporter.child import confinement
from allotment_exporter.child.build import build, warm_up
from allotment_exporter.domain import lines
from allotment_exporter.domain.exports import Stage


def main() -> None:
    """Serves one job: stdin has its line and stays open, stdout gets the answers."""
    confinement.die_with_parent(int(sys.argv[1]))
    # Libraries may print: the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warm_up()
    answers.write(lines.ready_line())
    answers.flush()
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return
    confinement.end_at_eof()
    job = lines.read_job(line)
    limits = job.limits
    confinement.limit(limits.memory_bytes, limits.cpu_s, limits.artefact_bytes)

    def report(stage: Stage) -> None:
        answers.write(lines.stage_line(stage))
        answers.flush()

    answers.write(lines.outcome_line(build(job, report)))
    answers.flush()
    # Destructors of native libraries have nothing left to do but to crash.
    os._exit(0)


if __name__ == "__main__":
    main()
