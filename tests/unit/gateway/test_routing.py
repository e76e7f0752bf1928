"""Which service, and which of its servers, a call goes to."""

import pytest

from allotment_gateway.domain.rotation import Rotation
from allotment_gateway.domain.routes import SERVICES, owner_of_method, owner_of_service
from allotment_testkit.surface import methods


def test_every_method_of_ours_has_an_owner() -> None:
    assert {owner_of_method(each.path) for each in methods()} == set(SERVICES)


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/allotment_api.search.v1.SearchService/GetTrial", "controller"),
        ("/allotment_api.search.v2.Another/Method", "controller"),
        ("/allotment_api.searching.v1.S/M", None),
        ("/allotment_api.search.v1.SearchService", None),
        ("/allotment_api.search.v1.S/M/N", None),
        ("allotment_api.search.v1.S/M", None),
        ("//", None),
        ("", None),
    ],
)
def test_a_package_decides(path: str, owner: str | None) -> None:
    assert owner_of_method(path) == owner


def test_services_are_known_by_their_full_names() -> None:
    assert owner_of_service("allotment_api.dataset.v1.BlobService") == "dataset"
    assert owner_of_service("dataset") is None


def test_servers_take_turns_and_those_that_do_not_serve_are_passed() -> None:
    rotation = Rotation("abc")
    for server in "abc":
        rotation.set_serving(server, True)
    assert [rotation.next() for _ in range(4)] == ["a", "b", "c", "a"]
    rotation.set_serving("b", False)
    assert [rotation.next() for _ in range(3)] == ["c", "a", "c"]


def test_where_none_serves_one_of_them_answers_for_itself() -> None:
    rotation = Rotation("ab")
    assert not rotation.any_serving
    assert [rotation.next() for _ in range(3)] == ["a", "b", "a"]
    with pytest.raises(ValueError, match="at least one"):
        Rotation("")
