"""What other people's tools say of the chart."""

import json
import shutil
import subprocess

import pytest

from allotment_testkit.chart import CHART, Json, render
from allotment_testkit.chart_forms import FORMS

CHOSEN = {
    "replicas without budgets": {"deployment-has-poddisruptionbudget"},
    "no network policies": {"pod-networkpolicy"},
    "the platform's own users": {"container-security-context-user-group-id"},
}
"""What these values are for."""


def test_helm_has_no_complaint() -> None:
    done = subprocess.run(
        ["helm", "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_kube_score_finds_nothing_critical(form: str) -> None:
    if shutil.which("kube-score") is None:
        pytest.skip("kube-score is not on the PATH")
    done = subprocess.run(
        ["kube-score", "score", "-", "--output-format", "json"],
        input=render(FORMS[form]).text,
        capture_output=True,
        text=True,
        check=False,
    )
    objects: list[Json] = json.loads(done.stdout)
    assert len(objects) > 15
    critical = {
        check["check"]["id"]
        for each in objects
        for check in each["checks"]
        if check["grade"] == 1 and not check["skipped"]
    }
    assert critical == CHOSEN.get(form, set())


def test_notes_tell_how_to_reach_it() -> None:
    done = subprocess.run(
        ["helm", "install", "ml", str(CHART), "--dry-run=client", "-n", "team"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "kubectl -n team port-forward svc/ml-gateway 8443:443" in notes
    assert "get secret ml-admin" in notes
    assert "get secret ml-ca" in notes
