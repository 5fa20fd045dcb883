"""The even sequence: exact counts, every position once, a deviation that grows as the logarithm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.prompts.balance.even_sequence import MODULUS, num_below, positions

STEP = 2654435521
GOLDEN = (5**0.5 - 1) / 2


@given(st.integers(0, 3000), st.integers(0, MODULUS - 1), st.lists(st.integers(0, MODULUS), min_size=1, max_size=5))
def test_counting_agrees_with_making_and_looking(start: int, offset: int, edges: list[int]) -> None:
    made = [(offset + index * STEP) % MODULUS for index in range(start)]
    expected = [sum(position < edge for position in made) for edge in edges]
    assert num_below(np.array(edges, dtype=np.uint64), start, offset).tolist() == expected


@given(st.integers(0, 2**43), st.integers(1, 500), st.integers(0, MODULUS - 1))
def test_counts_of_late_indices_add_up(start: int, num: int, offset: int) -> None:
    edges = np.array([0, 1, 12345, MODULUS // 3, MODULUS - 1, MODULUS], dtype=np.uint64)
    made = positions(start, num, offset)
    assert made.tolist() == [(offset + index * STEP) % MODULUS for index in range(start, start + num)]
    in_between = num_below(edges, start + num, offset) - num_below(edges, start, offset)
    assert in_between.tolist() == [int(np.count_nonzero(made < edge)) for edge in edges]


def test_a_period_holds_every_position_once() -> None:
    assert STEP % 2 == 1, "and so has an inverse modulo a power of two"
    edges = np.array([0, 1, 777, MODULUS], dtype=np.uint64)
    assert num_below(edges, MODULUS, 99).tolist() == edges.tolist()
    assert num_below(edges, 5 * MODULUS, 99).tolist() == (5 * edges).tolist()


def test_the_step_is_the_golden_ratio_s_and_has_no_large_quotient() -> None:
    assert abs(STEP / MODULUS - GOLDEN) < 1e-7
    quotients, (large, small) = [], (MODULUS, STEP)
    while small:
        quotients.append(large // small)
        large, small = small, large % small
    assert max(quotients) <= 3


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3), (5, 8)])
def test_every_interval_has_its_share_to_within_a_logarithm_on_every_rank(rank: int, world_size: int) -> None:
    num = 1 << 20
    mine = positions(0, num, 31337)[rank::world_size].astype(np.int64)
    rng = np.random.default_rng(0)
    for low, high in rng.integers(0, MODULUS, (20, 2)):
        low, high = min(low, high), max(low, high)
        inside = np.cumsum((mine >= low) & (mine < high))
        drawn = np.arange(1, len(mine) + 1)
        deviation = np.abs(inside - drawn * ((high - low) / MODULUS))
        # Random draws would be off by hundreds.
        assert np.all(deviation <= world_size * (2 + np.log(drawn)))
