"""Families that the controller is told of by a folder of productions."""

import shutil
from pathlib import Path

import pytest

from allotment_controller.adapters.families import load_grammar
from allotment_core.errors import InvalidArgument
from allotment_search import Grammar
from allotment_testkit.napping import PRODUCTIONS


def test_without_a_folder_there_are_the_shipped_ones() -> None:
    assert load_grammar(None) is Grammar.load("tabular")


def test_every_file_of_the_folder_is_a_family(tmp_path: Path) -> None:
    shutil.copy(PRODUCTIONS, tmp_path)
    (tmp_path / "README").write_text("no family")
    assert load_grammar(tmp_path).families[-1] == "napping"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no such folder"):
        load_grammar(tmp_path / "gone")
    (tmp_path / "bad.json").write_text('{"family": "bad"}')
    with pytest.raises(InvalidArgument, match=r"bad\.json: family bad has no model") as caught:
        load_grammar(tmp_path)
    assert caught.value.reason == "INVALID_CONFIG"
