"""Which families a trainer's process knows, and what it imports for them."""

import subprocess
import sys
from types import ModuleType

import pytest

from allotment_core.errors import InvalidArgument
from allotment_learn.families import offered
from allotment_learn.families.offered import ModelFamily
from allotment_search import Grammar
from allotment_testkit import napping


@pytest.fixture(autouse=True)
def _own_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offered, "_FAMILIES", dict(offered._FAMILIES))
    monkeypatch.setattr(offered, "_grammar", offered._grammar)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("registers_families")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_every_shipped_family_has_its_parts() -> None:
    assert [f.family for f in offered.offered_families()] == list(Grammar.load("tabular").families)
    for family in Grammar.load("tabular").families:
        if not offered._problem(offered._FAMILIES[family]):
            assert callable(offered.fitter(family))
        assert (offered.restorer(family) is None) is (family == "constant")


def test_a_registered_family_is_offered_and_has_its_productions() -> None:
    offered.register([napping.__name__])
    offered.register([napping.__name__])
    assert offered.offered_families()[-1] == offered.OfferedFamily("napping", True, "")
    assert offered.fitter("napping") is napping.fit
    assert offered.modules("napping") == (napping.__name__,)
    assert offered.takes_missing("napping")
    offered.grammar().check(offered.grammar().default("napping"))


def test_a_module_that_can_not_be_registered_says_why(module: ModuleType) -> None:
    with pytest.raises(ImportError, match="no_such_module"):
        offered.register(["no_such_module"])
    with pytest.raises(ValueError, match="has no FAMILIES"):
        offered.register([module.__name__])
    module.FAMILIES = (ModelFamily(name="linear", module="m"),)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="a family linear already"):
        offered.register([module.__name__])
    (family,) = napping.FAMILIES
    other = ModelFamily(name="siesta", module="m", grammar=family.grammar)
    module.FAMILIES = (other,)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="not of siesta"):
        offered.register([module.__name__])


def test_a_family_that_nobody_knows_is_refused() -> None:
    assert offered.modules("napping") == ()
    assert not offered.takes_missing("napping")
    with pytest.raises(InvalidArgument, match="'napping'"):
        offered.fitter("napping")


def test_what_is_offered_is_known_without_the_libraries() -> None:
    code = (
        "import sys; from allotment_learn.families import offered; import allotment_learn.trial;"
        "assert [f for f in offered.offered_families() if f.family == 'lightgbm'][0].available;"
        "print([m for m in ('sklearn', 'lightgbm', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
