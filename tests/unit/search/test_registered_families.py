"""Productions of a model family that is registered beside the shipped ones."""

import json

import numpy as np
import pytest

from allotment_core.errors import InvalidArgument
from allotment_search import Grammar
from allotment_search.space import PortfolioEntry
from allotment_testkit.napping import PRODUCTIONS

GRAMMAR = Grammar.load("tabular")
NAPPING = PRODUCTIONS.read_text(encoding="utf-8")


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(NAPPING), **fields})


def test_a_registered_family_adds_its_productions_and_changes_nothing() -> None:
    wider = GRAMMAR.with_family(NAPPING)
    assert tuple(wider.families) == (*GRAMMAR.families, "napping")
    assert wider.portfolio == GRAMMAR.portfolio
    default = wider.default("napping")
    wider.check(default)
    assert wider.resolve(default).components["model"].params["seconds"] == 1.0
    drawn = {wider.derive(np.random.default_rng(n), "napping") for n in range(20)}
    assert len(drawn) == 20
    for family in GRAMMAR.families:
        assert wider.default(family) == GRAMMAR.default(family)
    with pytest.raises(InvalidArgument, match="napping"):
        GRAMMAR.check(default)


def test_its_defaults_may_join_the_portfolio() -> None:
    wider = GRAMMAR.with_family(changed(portfolio=[{"default": "default"}]))
    assert wider.portfolio[-1] == PortfolioEntry("napping", "default")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Expecting"),
        ("[]", "lacks or garbles"),
        ("{}", "'family'"),
        (changed(family="linear"), "linear is there already"),
        (changed(nonterminals={"Linear": {}}), "'input'"),
        (changed(expands=["Nowhere"]), "unknown non-terminals"),
        (changed(expands=["OpenNumeric", "Napping"]), "takes category as Dense"),
        (changed(portfolio=[{"default": "siesta"}]), "napping/siesta"),
    ],
)
def test_productions_that_do_not_fit_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GRAMMAR.with_family(text)
