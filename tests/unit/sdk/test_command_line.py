"""The command line's glance at its arguments, durations, names and JSON."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from allotment.cli.data import column_roles
from allotment.cli.main import needs_own_server, state_dir
from allotment.cli.options import parse_duration_s
from allotment.cli.render import plain, short
from allotment.naming import full_name, nested_name, version_name
from allotment.types import ColumnRole, Metric, TrialState, Usage
from allotment_core.errors import InvalidArgument

RUN = ["run", "x.csv", "--target", "y", "--out", "z"]


@pytest.mark.parametrize(
    ("arguments", "env", "wanted"),
    [
        (RUN, {}, True),
        (["run", "x.csv", "--target=y", "--out=z"], {}, True),
        (RUN, {"ALLOTMENT_SERVER": "127.0.0.1:1"}, False),
        (RUN, {"ALLOTMENT_PROFILE": "a"}, False),
        ([*RUN, "--server", "127.0.0.1:1"], {}, False),
        ([*RUN, "--help"], {}, False),
        (["run", "x.csv"], {}, False),
        (["run", "--resume", "e", "--dir", "/nowhere", "--out", "z"], {}, False),
        (["run", "--resume", "e", "--out", "z"], {}, False),
        (["experiments"], {}, False),
        ([], {}, False),
    ],
)
def test_a_server_is_started_early_only_for_a_run_that_needs_one(
    arguments: list[str], env: dict[str, str], wanted: bool
) -> None:
    assert needs_own_server(arguments, env) is wanted


def test_a_server_is_started_early_on_the_state_that_is_there(tmp_path: Path) -> None:
    arguments = ["run", "--resume", "e", "--dir", str(tmp_path), "--out", "z"]
    assert needs_own_server(arguments, {})
    assert not needs_own_server(arguments, {"ALLOTMENT_SERVER": "127.0.0.1:1"})


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([*RUN, "--dir", "/state"], Path("/state")),
        ([*RUN, "--dir=/state"], Path("/state")),
        (RUN, None),
        ([*RUN, "--dir"], None),
    ],
)
def test_the_early_server_keeps_its_state_where_it_is_told(
    arguments: list[str], folder: Path | None
) -> None:
    assert state_dir(arguments) == folder


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("60s", 60), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("0.5s", 0.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1x", "-5s", "5 s", "1h junk"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration_s(text)


def test_a_column_has_one_role() -> None:
    assert column_roles(["a", "b"], "w", "", "") == {
        "a": ColumnRole.IGNORED,
        "b": ColumnRole.IGNORED,
        "w": ColumnRole.WEIGHT,
    }
    with pytest.raises(typer.BadParameter):
        column_roles(["a"], "a", "", "")


def test_json_is_plain() -> None:
    value = {
        "usage": Usage(name="tenants/a", slot_seconds=float("nan"), lease_count=1),
        "state": TrialState.QUEUED,
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "many": (Metric.AUC,),
    }
    assert json.loads(json.dumps(plain(value))) == {
        "usage": {"name": "tenants/a", "slot_seconds": None, "lease_count": 1},
        "state": "queued",
        "at": "2026-01-02T03:04:05Z",
        "many": ["auc"],
    }


def test_ids_and_names_both_name_things() -> None:
    assert full_name("e", "experiments", "tenants/t") == "tenants/t/experiments/e"
    assert full_name("tenants/u/experiments/e", "experiments", "tenants/t").startswith("tenants/u")
    assert version_name("d", "tenants/t") == "tenants/t/datasets/d/versions/latest"
    assert version_name("d/2", "tenants/t") == "tenants/t/datasets/d/versions/2"
    assert version_name("tenants/t/datasets/d", "tenants/t").endswith("/versions/latest")
    assert nested_name("e/3", "experiments", "trials", "tenants/t") == (
        "tenants/t/experiments/e/trials/3"
    )
    assert short("tenants/t/experiments/e") == "experiments/e"


@pytest.mark.parametrize("text", ["", "e", "a/b/c", "/"])
def test_a_text_that_names_no_nested_thing_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        nested_name(text, "experiments", "trials", "tenants/t")


def test_an_unknown_enum_value_of_a_newer_server_is_unspecified() -> None:
    assert TrialState("brand_new") is TrialState.UNSPECIFIED
