"""Orders from keys: permutations, each its own, and as random as shuffled ones to a χ² test."""

import numpy as np
import pytest
from scipy import stats

from penstock.consumer.prompts.keyed_order import keyed, mix, shuffled


def _deck(size: int, key: int) -> list[int]:
    places = np.arange(size, dtype=np.uint64)
    sizes, keys = np.full(size, size, dtype=np.uint64), np.full(size, key, dtype=np.uint64)
    return shuffled(places, sizes, keys).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10, 99, 100, 101, 1000, 4097])
def test_every_deck_is_a_permutation(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        assert sorted(_deck(size, key)) == list(range(size))


def test_places_of_large_and_of_different_decks_are_worked_out_together() -> None:
    sizes = np.array([1, 2**32, 7, 2**62 - 5, 1000], dtype=np.uint64)
    places = sizes - np.uint64(1)
    keys = np.arange(5, dtype=np.uint64)
    together = shuffled(places, sizes, keys)
    assert np.all(together < sizes)
    alone = [shuffled(places[n : n + 1], sizes[n : n + 1], keys[n : n + 1])[0] for n in range(5)]
    assert together.tolist() == alone


@pytest.mark.parametrize("size", [5, 16, 60])
def test_every_card_comes_to_every_place_equally_often(size: int) -> None:
    num_keys = 200 * size
    keys = mix(np.arange(num_keys, dtype=np.uint64))
    sizes = np.full(num_keys, size, dtype=np.uint64)
    for place in (0, size // 2, size - 1):
        cards = shuffled(np.full(num_keys, place, dtype=np.uint64), sizes, keys)
        counts = np.bincount(cards.astype(np.int64), minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_before_are_no_neighbours_after() -> None:
    size, num_keys = 30, 6000
    keys = mix(np.arange(num_keys, dtype=np.uint64))
    sizes = np.full(num_keys, size, dtype=np.uint64)
    first, second = (shuffled(np.full(num_keys, place, dtype=np.uint64), sizes, keys) for place in (3, 4))
    apart = np.bincount((second.astype(np.int64) - first.astype(np.int64)) % size, minlength=size)
    assert apart[0] == 0
    assert stats.chisquare(apart[1:]).pvalue > 1e-4


def test_keys_of_neighbouring_numbers_are_unlike() -> None:
    keys = keyed(np.array([7], dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    assert len(set(keys.tolist())) == 1000
    flipped = np.bitwise_count(keys[1:] ^ keys[:-1])
    assert 31 < flipped.mean() < 33
