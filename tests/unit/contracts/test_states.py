"""The moves in the protos' comments are those of the services' tables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from allotment_allocator.domain.lease import MOVES as LEASE_MOVES
from allotment_controller.domain.experiment import EXPERIMENT_MOVES
from allotment_controller.domain.model import MODEL_MOVES
from allotment_controller.domain.trial import TRIAL_MOVES
from allotment_core.states import Moves
from allotment_dataset.domain.imports import MOVES as IMPORT_MOVES
from allotment_exporter.domain.exports import MOVES as EXPORT_MOVES

PROTOS = Path(__file__).parents[3] / "protos"
TABLES: Mapping[str, Moves[Any]] = {
    "ExperimentState": EXPERIMENT_MOVES,
    "ExportState": EXPORT_MOVES,
    "ImportState": IMPORT_MOVES,
    "LeaseState": LEASE_MOVES,
    "ModelState": MODEL_MOVES,
    "TrialState": TRIAL_MOVES,
}
Table = dict[str, set[str]]

_ENUM = re.compile(r"((?://[^\n]*\n)+)enum (\w+State) \{\n(.*?)\n\}", re.DOTALL)
_VALUE = re.compile(r"((?:\s*//[^\n]*\n)*)\s*([A-Z_]+) = (\d+);")


def _text(comment: str) -> str:
    return " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())


def _names(text: str) -> set[str]:
    """State names of "A, B (why, or when), C"."""
    return set(re.findall(r"[A-Z_]{3,}", re.sub(r"\([^)]*\)", "", text)))


def _moves_before(comment: str) -> Table:
    """Of "Moves: A -> B, C. B -> C."."""
    assert "Moves:" in comment
    table: Table = {}
    text = re.sub(r"\([^)]*\)", "", comment.split("Moves:")[1])
    for sentence in text.split("."):
        if "->" in sentence:
            source, following = sentence.split("->")
            table[source.strip()] = _names(following)
    return table


def _moves_within(body: str, prefix: str) -> Table:
    """Of "Moves to A, B." above each value; values without it are final."""
    table: Table = {}
    for comment, name, number in _VALUE.findall(body):
        if number != "0":
            said = re.search(r"Moves to ([^.]*)\.", _text(comment))
            table[name.removeprefix(prefix)] = _names(said.group(1)) if said else set()
    return table


def _prefix(enum: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper() + "_"


ENUMS = {
    name: (_text(comment), body)
    for proto in sorted(PROTOS.rglob("*.proto"))
    for comment, name, body in _ENUM.findall(proto.read_text())
}


def test_every_state_enum_has_a_table() -> None:
    declared = {
        name
        for proto in PROTOS.rglob("*.proto")
        for name in re.findall(r"enum (\w+State) \{", proto.read_text())
    }
    assert set(ENUMS) == declared == set(TABLES)


@pytest.mark.parametrize("enum", TABLES)
def test_comments_list_the_legal_moves(enum: str) -> None:
    table = {
        state.name: {following.name for following in legal}
        for state, legal in TABLES[enum].table.items()
    }
    comment, body = ENUMS[enum]
    assert _moves_within(body, _prefix(enum)) == table
    assert _moves_before(comment) == {state: legal for state, legal in table.items() if legal}
