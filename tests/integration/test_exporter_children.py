"""Damaged graphs in real child processes: whatever they do there, the answer is an outcome."""

from pathlib import Path

import numpy as np
import pytest

from allotment_exporter.adapters.child_processes import ChildProcessBuilder
from allotment_exporter.domain.builds import (
    BuildJob,
    BuildLimits,
    Built,
    Failed,
    JobMember,
    Refused,
)
from allotment_exporter.domain.exports import Task
from allotment_testkit.graphs import CLASSES, Rows, classification_graph


@pytest.mark.parametrize("seed", range(3))
async def test_damaged_graph_has_an_outcome(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = Rows.made()
    (tmp_path / "r").write_bytes(rows.npz(rows.probabilities()))
    builder = ChildProcessBuilder(tmp_path)
    await builder.start()
    try:
        for _ in range(5):
            content = bytearray(classification_graph().SerializeToString())
            for place in rng.integers(0, len(content), 2):
                content[place] = rng.integers(256)
            (tmp_path / "g").write_bytes(content)
            job = BuildJob(
                members=(JobMember(graph=tmp_path / "g", reference=tmp_path / "r"),),
                artefact=tmp_path / "a",
                task=Task.MULTICLASS,
                classes=CLASSES,
                target="y",
                limits=BuildLimits(
                    memory_bytes=4 << 30, cpu_s=20, wall_s=20, measure_s=0.0, artefact_bytes=1 << 20
                ),
            )
            outcome = await builder.build(job, lambda stage: None)
            assert isinstance(outcome, Built | Refused | Failed)
            if isinstance(outcome, Failed):
                assert outcome.problem.reason != "NO_PROCESS"
        assert len(builder.pids) <= 1
    finally:
        await builder.stop()
    assert not builder.pids
