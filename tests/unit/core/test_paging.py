"""Page tokens bring back their cursor, to their own list alone."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from allotment_core.errors import InvalidArgument
from allotment_core.paging import decode_token, encode_token, page_size


@given(st.text(), st.text(max_size=200))
def test_a_token_brings_back_its_cursor(filter_key: str, cursor: str) -> None:
    token = encode_token(filter_key, cursor)
    assert decode_token(token, filter_key) == cursor
    assert token.isascii()


@given(st.text(), st.text(), st.text())
def test_another_lists_token_is_refused(ours: str, theirs: str, cursor: str) -> None:
    assume(ours != theirs)
    with pytest.raises(InvalidArgument) as caught:
        decode_token(encode_token(theirs, cursor), ours)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@given(st.text(min_size=1))
def test_made_up_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_token(token, "list")
    assert len(caught.value.message) < 400


def test_no_token_is_the_first_page() -> None:
    assert decode_token("", "list") == ""


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (1000, 1000), (2_000_000_000, 1000)])
def test_page_sizes_are_bounded(asked: int, given: int) -> None:
    assert page_size(asked) == given


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        page_size(-1)
    assert caught.value.violations[0].field == "page_size"
