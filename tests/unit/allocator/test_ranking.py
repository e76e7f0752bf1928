"""The least of many whose ranks change."""

from hypothesis import given
from hypothesis import strategies as st

from allotment_allocator.domain.ranking import Ranking


def test_an_older_rank_of_a_key_does_not_count() -> None:
    ranking: Ranking[str, tuple[int, str]] = Ranking()
    ranking.put("a", (1, "a"))
    ranking.put("b", (2, "b"))
    ranking.put("a", (3, "a"))
    assert ranking.first() == "b"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.none() | st.integers(0, 9))))
def test_the_first_is_the_least_of_what_is_there(changes: list[tuple[str, int | None]]) -> None:
    ranking: Ranking[str, tuple[int, str]] = Ranking()
    there: dict[str, int] = {}
    for key, rank in changes:
        if rank is None:
            ranking.drop(key)
            there.pop(key, None)
        else:
            ranking.put(key, (rank, key))
            there[key] = rank
        assert ranking.first() == min(there, key=lambda k: (there[k], k), default=None)
