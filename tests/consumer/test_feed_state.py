"""The feed's state: compact, exact in JSON, and the same whatever number of ranks it is dealt out to."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.feed_state import Entered, FeedState, Kept, merge

INDICES = st.sets(st.integers(0, 60), max_size=50)


def _indices(state: FeedState) -> set[int]:
    """Every index that has entered, spelled out."""
    return {*range(state.rank, state.cursor, state.world_size), *state.entered}


def _state(rank: int, world_size: int, entered: set[int]) -> FeedState:
    mine = {index for index in entered if index % world_size == rank}
    compact = Entered(rank, world_size)
    for index in mine:
        compact.add(index)
    kept = tuple(Kept(index, index % 3, index % 2) for index in sorted(mine) if index % 5 == 0)
    return FeedState(
        rank=rank, world_size=world_size, cursor=compact.cursor, entered=tuple(sorted(compact.beyond)), kept=kept
    )


@given(entered=INDICES, rank=st.integers(0, 3), order=st.randoms())
def test_a_cursor_and_a_few_indices_say_which_have_entered(entered: set[int], rank: int, order: object) -> None:
    mine = [index for index in entered if index % 4 == rank]
    order.shuffle(mine)  # type: ignore[attr-defined]
    compact = Entered(rank, 4)
    for index in mine:
        compact.add(index)
    assert {*range(rank, compact.cursor, 4), *compact.beyond} == set(mine)
    assert compact.cursor % 4 == rank
    assert compact.cursor not in compact.beyond, "the cursor stands at the first that is lacking"
    assert all(index > compact.cursor for index in compact.beyond)


@given(entered=INDICES, before=st.sampled_from([1, 2, 3, 4]), after=st.sampled_from([1, 2, 4, 5]))
def test_no_index_is_lost_or_doubled_whatever_the_numbers_of_ranks(entered: set[int], before: int, after: int) -> None:
    parts = [_state(rank, before, entered) for rank in range(before)]
    whole = merge(parts)
    assert (whole.rank, whole.world_size, _indices(whole)) == (0, 1, entered)
    shares = [whole.share(rank, after) for rank in range(after)]
    for share in shares:
        assert _indices(share) == {index for index in entered if index % after == share.rank}
        assert all(kept.index % after == share.rank for kept in share.kept)
    kept = sorted(kept for share in shares for kept in share.kept)
    assert kept == sorted(kept for part in parts for kept in part.kept)
    assert merge(shares) == whole


def test_from_two_ranks_to_one_to_four() -> None:
    """By hand: rank 0 of 2 has had 0, 2, 4 and 8, rank 1 only 1; 4 and 8 are kept."""
    first = FeedState(rank=0, world_size=2, cursor=6, entered=(8,), kept=(Kept(4, 1, 0), Kept(8, 2, 1)))
    second = FeedState(rank=1, world_size=2, cursor=3)
    whole = merge([second, first])
    assert (whole.cursor, whole.entered, whole.kept) == (3, (4, 8), (Kept(4, 1, 0), Kept(8, 2, 1)))
    four = [whole.share(rank, 4) for rank in range(4)]
    assert [share.cursor for share in four] == [12, 5, 6, 3]
    assert [share.entered for share in four] == [(), (), (), ()]
    assert [share.kept for share in four] == [(Kept(4, 1, 0), Kept(8, 2, 1)), (), (), ()]


@pytest.mark.parametrize("ranks", [[0], [0, 0], [1, 2]])
def test_a_missing_part_is_an_error(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="the states of ranks 0 to 1 are needed"):
        merge([FeedState.beginning(rank, 2) for rank in ranks])


def test_state_survives_json_exactly() -> None:
    state = FeedState(rank=0, world_size=2, cursor=4, entered=(6, 10), kept=(Kept(0, 1, 0), Kept(6, 0, 2)))
    assert FeedState.from_json(json.loads(json.dumps(state.to_json()))) == state
