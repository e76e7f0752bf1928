"""Merged and calibrated graphs predict what their members' source libraries predict together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from allotment_exporter.child.build import build
from allotment_exporter.child.merge import mixed
from allotment_exporter.domain.builds import BuildJob, BuildLimits, Built, JobMember
from allotment_exporter.domain.exports import Task
from allotment_learn.table import Array
from allotment_learn.task import SplitMethod, TaskKind, TrialTask
from allotment_learn.trial import run_trial
from allotment_search.pipeline import Component
from allotment_testkit.trials import (
    SMALL_MODELS,
    TOLERANCE,
    feeds_of,
    quirky_task,
    session_of,
    worst_difference,
)

LIMITS = BuildLimits(
    memory_bytes=1 << 40, cpu_s=600, wall_s=600, measure_s=0.0, artefact_bytes=1 << 26
)
IMPUTES = [
    Component("impute", {"strategy": "mean", "indicator": False, "scale": "none"}),
    Component("impute", {"strategy": "median", "indicator": True, "scale": "standard"}),
]


@st.composite
def ensembles(draw: st.DrawFn) -> tuple[list[TrialTask], list[float], float]:
    """Two or three trials of one experiment, weights and a temperature; or one, calibrated."""
    kind = draw(st.sampled_from(TaskKind))
    method = draw(st.sampled_from(SplitMethod))
    rows, seed = draw(st.integers(40, 120)), draw(st.integers(0, 2**32))
    classifies = kind is not TaskKind.REGRESSION
    temperature = draw(st.floats(0.25, 4.0)) if classifies else 1.0
    families = draw(st.lists(st.sampled_from(sorted(SMALL_MODELS)), min_size=1, max_size=3))
    tasks = [
        quirky_task(
            family,
            kind,
            numeric=draw(st.sampled_from(IMPUTES)),
            category=Component("ordinal", {"min_count": draw(st.integers(1, 9))}),
            date=draw(st.sampled_from(["parts", "drop"])),
            target="identity" if classifies else draw(st.sampled_from(["identity", "log1p"])),
            method=method,
            rows=rows,
            seed=seed,
        )
        for family in families
    ]
    counts = draw(st.lists(st.integers(1, 20), min_size=len(tasks), max_size=len(tasks)))
    return tasks, [count / sum(counts) for count in counts], temperature


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(case=ensembles())
@pytest.mark.timeout(120)
def test_an_ensemble_predicts_what_its_members_libraries_predict(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[TrialTask], list[float], float]
) -> None:
    tasks, weights, temperature = case
    folder = tmp_path_factory.mktemp("ensemble")
    with threadpool_limits(1):
        outcomes = [
            run_trial(task, folder / str(n), lambda _: None) for n, task in enumerate(tasks)
        ]
    job = BuildJob(
        members=tuple(
            JobMember(graph=o.graph_path, reference=o.reference_path, weight=w)
            for o, w in zip(outcomes, weights, strict=True)
        ),
        artefact=folder / "model.onnx",
        task=Task(tasks[0].task.value),
        classes=tasks[0].classes,
        target=tasks[0].target_name,
        limits=LIMITS,
        temperature=temperature,
    )
    built = build(job, lambda stage: None)
    assert isinstance(built, Built), built
    shared = shared_rows([o.reference_path for o in outcomes])
    expected = mixed([values for _, values in shared], weights, temperature)
    session = session_of(job.artefact)
    found = session.run(None, feeds_of(session, shared[0][0]))
    # p^(1 / T) magnifies what the members' graphs may be off by.
    assert worst_difference(found[-1], expected) <= TOLERANCE * max(1.0, 1 / temperature)
    if tasks[0].classes:
        best = np.sort(expected, axis=1)
        clear = best[:, -1] - best[:, -2] > TOLERANCE
        said = np.array([tasks[0].classes[place] for place in expected.argmax(axis=1)])
        assert (found[0][clear] == said[clear]).all()


def shared_rows(paths: list[Path]) -> list[tuple[list[Array], Array]]:
    """Of each reference the inputs and values of the validation rows, which are the same rows."""
    found = []
    for path in paths:
        with np.load(path, allow_pickle=False) as stored:
            real = stored["kind"] == "VALIDATION"
            order = np.argsort(stored["row"][real], kind="stable")
            inputs = [stored[f"input_{i}"][real][order] for i in range(len(stored["columns"]))]
            found.append((inputs, stored["expected"][real][order]))
    return found
