"""Names parse to what they came from, and nothing else parses."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allotment_core.errors import InvalidArgument
from allotment_core.names import (
    TENANT_RESOURCES,
    BlobName,
    DatasetName,
    FamilyName,
    NodeName,
    PoolName,
    ResourceName,
    TenantName,
    VersionName,
    new_id,
    parse_tenant_resource,
)

ALNUM = string.ascii_letters + string.digits
LOWER = string.ascii_lowercase + string.digits
ALL = (*TENANT_RESOURCES, PoolName, NodeName, FamilyName)

ids = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from(ALNUM),
    st.text(ALNUM + "._-", max_size=61),
    st.sampled_from(ALNUM),
)
tenant_ids = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from(LOWER),
    st.text(LOWER + "-", max_size=61),
    st.sampled_from(LOWER),
)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def names(draw: st.DrawFn) -> tuple[type[ResourceName], str]:
    name_class = draw(st.sampled_from(ALL))
    collections = name_class.PATTERN.split("/")[::2]
    segments = []
    for collection in collections:
        source = {"tenants": tenant_ids, "blobs": digests}.get(collection, ids)
        segments += [collection, draw(source)]
    return name_class, "/".join(segments)


@given(names())
def test_a_name_is_the_text_it_came_from(case: tuple[type[ResourceName], str]) -> None:
    name_class, text = case
    assert str(name_class.parse(text)) == text
    assert name_class.parse(text) == name_class.parse(text)


@given(names())
def test_a_name_parses_as_its_own_type_alone(case: tuple[type[ResourceName], str]) -> None:
    name_class, text = case
    for other in ALL:
        if other is not name_class:
            with pytest.raises(InvalidArgument):
                other.parse(text)
    if name_class in TENANT_RESOURCES:
        assert type(parse_tenant_resource(text)) is name_class


@given(st.text())
def test_anything_else_is_refused_briefly(text: str) -> None:
    for name_class in ALL:
        with pytest.raises(InvalidArgument) as caught:
            name_class.parse(text)
        assert caught.value.reason == "INVALID_NAME"
        assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tenants",
        "tenants/",
        "tenants/a/",
        "/tenants/a",
        "tenants/A",
        "tenants/a\n",
        "tenants/-",
        "tenants/a-",
        "tenants/..",
        "tenants/" + "a" * 64,
        "tenants/\N{ARABIC-INDIC DIGIT ONE}",
        "Tenants/a",
    ],
)
def test_no_tenant_is_called_that(text: str) -> None:
    with pytest.raises(InvalidArgument):
        TenantName.parse(text)


def test_every_tenant_is_named_only_where_it_is_asked_for() -> None:
    assert TenantName.parse_or_wildcard("tenants/-") is TenantName.WILDCARD
    assert TenantName.parse_or_wildcard("tenants/a") == TenantName("a")
    with pytest.raises(InvalidArgument):
        DatasetName.parse("tenants/-/datasets/a")


def test_parents_lead_to_the_tenant() -> None:
    version = VersionName.parse("tenants/t/datasets/d/versions/1")
    assert version.parent == DatasetName(TenantName("t"), "d")
    assert version.parent.parent == version.tenant == TenantName("t")


def test_a_name_that_exists_is_valid() -> None:
    with pytest.raises(InvalidArgument):
        DatasetName(TenantName("t"), "../d")
    with pytest.raises(InvalidArgument):
        BlobName(TenantName("t"), "A" * 64)


def test_a_long_text_is_cut_in_the_error() -> None:
    with pytest.raises(InvalidArgument) as caught:
        TenantName.parse("tenants/" + "x" * 5000)
    assert "x" * 81 not in caught.value.message
    assert "tenants/*" in caught.value.message


def test_new_ids_are_fresh_and_valid() -> None:
    made = {new_id("trial") for _ in range(1000)}
    assert len(made) == 1000
    for each in made:
        DatasetName(TenantName("t"), each)
