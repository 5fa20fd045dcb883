"""Philox against the known-answer vectors of Random123 (tests/kat_vectors, lines "philox4x32 10")."""

import pytest
import torch

from penstock.kernels.philox import philox4x32, to_uniform, words_of

VECTORS = """
00000000 00000000 00000000 00000000 00000000 00000000   6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff   408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0   d16cfe09 94fdcceb 5001e420 24126ea1
"""
# [3, 10]: counter, key, answer.
KNOWN_ANSWERS = torch.tensor([[int(word, 16) for word in line.split()] for line in VECTORS.strip().splitlines()])


@pytest.mark.parametrize("line", range(3))
def test_known_answer_vectors(line: int) -> None:
    counter, key, expected = KNOWN_ANSWERS[line].split([4, 2, 4])
    assert philox4x32(counter, key).tolist() == expected.tolist()


def test_batch_equals_single_counters_and_key_broadcasts() -> None:
    counter, key, expected = KNOWN_ANSWERS.split([4, 2, 4], dim=1)
    assert torch.equal(philox4x32(counter, key), expected)
    one_key = philox4x32(counter.expand(2, 3, 4), key[2])
    assert one_key.shape == (2, 3, 4)
    assert torch.equal(one_key[1, 2], expected[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_bits_on_the_gpu() -> None:
    counter, key, expected = KNOWN_ANSWERS.split([4, 2, 4], dim=1)
    assert torch.equal(philox4x32(counter.cuda(), key.cuda()).cpu(), expected)


def test_words_of_splits_two_complement() -> None:
    low, high = words_of(torch.tensor([-1, 1 << 40, (7 << 32) | 5]))
    assert low.tolist() == [0xFFFFFFFF, 0, 5]
    assert high.tolist() == [0xFFFFFFFF, 1 << 8, 7]


def test_uniform_stays_inside_the_open_interval() -> None:
    ends = to_uniform(torch.tensor([0, 2**32 - 1]))
    assert ends.tolist() == [2.0**-33, 1 - 2.0**-33]
