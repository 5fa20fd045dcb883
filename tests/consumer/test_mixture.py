"""Which groups are real: the exact share, evenly, whoever counts."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.consumer.mixture import Mixture

FRACTIONS = (0.0, 0.01, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0)
NUM = 4096


def _real(fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    mixture = Mixture(fraction, seed)
    return np.array([mixture.place(index).is_real for index in range(NUM)])


@pytest.mark.parametrize(("fraction", "seed"), list(product(FRACTIONS, (0, 7))))
def test_every_aligned_window_holds_the_share_to_one_group(fraction: float, seed: int) -> None:
    real = _real(fraction, seed)
    for window in (2, 8, 64, 512, NUM):
        counts = real.reshape(-1, window).sum(axis=1)
        assert np.abs(counts - fraction * window).max() <= 1


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_of_such_shares_any_window_of_any_of_eight_ranks_holds_its_part(fraction: float) -> None:
    real = _real(fraction)
    for world_size in (1, 2, 4, 8):
        for rank in range(world_size):
            mine = real[rank::world_size]
            for window in (4, 7, 32, 100):
                counts = np.convolve(mine, np.ones(window), "valid")
                assert np.abs(counts - fraction * window).max() <= 1.25


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_no_rank_of_a_step_gets_more_than_its_part(fraction: float) -> None:
    """A step of 64 groups in ticket order, for each of two, four or eight ranks."""
    real = _real(fraction).reshape(-1, 64)
    for world_size in (2, 4, 8):
        for rank in range(world_size):
            counts = real[:, rank::world_size].sum(axis=1)
            assert np.abs(counts - fraction * 64 / world_size).max() <= 1.5


@given(st.floats(0, 1), st.integers(0, 2**32 - 1), st.integers(0, 10**12))
def test_a_place_counts_those_of_its_kind_before_it(fraction: float, seed: int, index: int) -> None:
    mixture = Mixture(fraction, seed)
    first, second = mixture.place(index), mixture.place(index + 1)
    real_before = first.ordinal if first.is_real else index - first.ordinal
    real_then = second.ordinal if second.is_real else index + 1 - second.ordinal
    assert real_then == real_before + first.is_real
    assert abs(real_before - fraction * index) <= 32 + index * 2**-33, "half a block, and the share's last digit"


def test_a_place_is_the_same_whatever_was_asked_before_and_another_with_another_seed() -> None:
    forwards = [Mixture(0.3, 5).place(index) for index in range(1000)]
    mixture = Mixture(0.3, 5)
    assert [mixture.place(index) for index in reversed(range(1000))] == forwards[::-1]
    assert [Mixture(0.3, 6).place(index) for index in range(1000)] != forwards


def test_without_real_groups_every_group_keeps_its_prompt() -> None:
    assert all(Mixture(0.0, 3).place(index).ordinal == index for index in (0, 1, 63, 64, 10**9))
    assert all(Mixture(1.0, 3).place(index).ordinal == index for index in (0, 1, 63, 64, 10**9))
