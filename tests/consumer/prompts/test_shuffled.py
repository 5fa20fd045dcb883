"""Orders of captions: each once an epoch, in an order that nobody writes down."""

import hashlib
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from penstock.consumer.prompts.captions import ListedCaptions, ShuffledCaptions
from penstock.consumer.prompts.permutation import KeyedPermutation
from tests.consumer.prompts.files.opened import opened, write

TEN_MILLION = 10_000_000


def _source(num_rows: int, seed: int = 0) -> ShuffledCaptions:
    return ShuffledCaptions(ListedCaptions([f"caption {row}" for row in range(num_rows)], "d"), seed)


def _texts(source: ShuffledCaptions, indices: range) -> list[str]:
    return [source.prompt(index).text for index in indices]


def _order(num_rows: int, key: str) -> list[int]:
    return [int(row) for row in KeyedPermutation(num_rows, key)(np.arange(num_rows, dtype=np.uint64))]


def test_each_caption_comes_once_an_epoch_in_a_new_order() -> None:
    source = _source(40)
    epochs = [_texts(source, range(start, start + 40)) for start in (0, 40, 80)]
    everything = [f"caption {row}" for row in range(40)]
    assert all(sorted(epoch) == sorted(everything) for epoch in epochs)
    assert len({tuple(order) for order in [everything, *epochs]}) == 4


def test_epochs_of_many_blocks_have_each_caption_once() -> None:
    source = _source(10_000)
    for epoch in (0, 7):
        found = _texts(source, range(epoch * 10_000, (epoch + 1) * 10_000))
        assert sorted(found) == sorted(f"caption {row}" for row in range(10_000))


def test_the_index_decides_whatever_was_asked_before() -> None:
    expected = _texts(_source(7), range(200))
    source = _source(7)
    assert [source.prompt(index).text for index in reversed(range(200))] == expected[::-1]
    assert source.prompt(5 + 3 * 2**40) == _source(7).prompt(5 + 3 * 2**40)


def test_what_a_large_reservoir_holds_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    permute = KeyedPermutation.__call__
    monkeypatch.setattr(
        KeyedPermutation, "__call__", lambda self, positions: drawn.append(len(positions)) or permute(self, positions)
    )
    source = _source(300_000)
    indices = range(0, 131_072, 1000)
    before = _texts(source, indices)
    num_drawn = len(drawn)
    assert _texts(source, indices) == before
    assert len(drawn) == num_drawn == 131_072 // 4096


def test_another_seed_is_another_order() -> None:
    assert len({tuple(_texts(_source(40, seed), range(40))) for seed in range(20)}) == 20


def test_captions_of_a_file_come_in_the_same_order_as_those_in_memory(tmp_path: Path) -> None:
    lines = [f"caption {row}" for row in range(500)]
    filed = ShuffledCaptions(opened(write(tmp_path, "\n".join(lines).encode())), 3)
    assert _texts(filed, range(1500)) == _texts(_source(500, seed=3), range(1500))
    assert filed.num_captions == 500


@pytest.mark.parametrize("key", ["0 0", "4294967295 12"])
def test_every_order_of_1_to_300_things_has_each_once(key: str) -> None:
    for num_rows in range(1, 301):
        assert sorted(_order(num_rows, key)) == [*range(num_rows)], num_rows


def test_of_ten_million_things_none_comes_twice() -> None:
    positions = np.random.default_rng(0).choice(TEN_MILLION, 300_000, replace=False).astype(np.uint64)
    rows = KeyedPermutation(TEN_MILLION, "0 0")(positions)
    assert len(np.unique(rows)) == 300_000
    assert rows.max() < TEN_MILLION


def test_neighbours_in_an_order_are_strangers() -> None:
    """Were an order a shift, or its steps alike, the differences of neighbours would be few."""
    rows = KeyedPermutation(TEN_MILLION, "1 0")(np.arange(100_000, dtype=np.uint64)).astype(np.int64)
    assert len(np.unique(np.diff(rows))) > 98_000
    assert abs(stats.spearmanr(rows[:-1], rows[1:]).statistic) < 0.015
    assert stats.kstest(rows / TEN_MILLION, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("num_rows", [2, 3, 7, 16, 30])
def test_over_the_epochs_every_caption_stands_everywhere_equally_often(num_rows: int) -> None:
    epochs = 1500
    counts = np.zeros((num_rows, num_rows), np.int64)
    for epoch in range(epochs):
        counts[np.arange(num_rows), _order(num_rows, f"5 {epoch}")] += 1
    expected = epochs / num_rows
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, (num_rows - 1) ** 2) > 1e-4


def test_over_the_epochs_all_orders_of_four_things_come_equally_often() -> None:
    found: dict[tuple[int, ...], int] = {}
    for epoch in range(2400):
        order = tuple(_order(4, f"9 {epoch}"))
        found[order] = found.get(order, 0) + 1
    assert len(found) == 24
    assert stats.chisquare([*found.values()]).pvalue > 1e-4


def _mixed(value: int) -> int:
    """SplitMix64's finaliser."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


def _plain(num_rows: int, key: str, position: int) -> int:
    """The same by the book, in Python's integers: Black and Rogaway's cycle walk on a generalised Feistel network."""
    wide = ceil(sqrt(num_rows))
    sides = [wide, ceil(num_rows / wide)]
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"penstock-order").digest(), "little")
    while True:
        halves = list(divmod(position, sides[1]))
        for turn in range(6):
            changed, other = turn % 2, 1 - turn % 2
            mixed = _mixed((number + halves[other] + turn * 2**32) % 2**64) >> 32
            halves[changed] = (halves[changed] + mixed) % sides[changed]
        position = halves[0] * sides[1] + halves[1]
        if position < num_rows:
            return position


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 17, 100, 4097, TEN_MILLION])
def test_the_order_is_the_one_that_the_book_gives(num_rows: int) -> None:
    positions = np.unique(np.linspace(0, num_rows - 1, 60).astype(np.uint64))
    found = KeyedPermutation(num_rows, "3 14")(positions).tolist()
    assert found == [_plain(num_rows, "3 14", int(position)) for position in positions]


def test_the_order_never_changes() -> None:
    """A run that is resumed with a later version must find its captions where they were."""
    assert _order(10, "0 0") == GOLDEN
    assert [_plain(10, "0 0", position) for position in range(10)] == GOLDEN


GOLDEN = [6, 1, 7, 2, 8, 9, 5, 0, 4, 3]
