"""Philox4x32-10, the counter-based random numbers of Random123, in plain torch.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). A block of four 32-bit words is a pure
function of a 128-bit counter and a 64-bit key, so a number belongs to what it is drawn for and not to who
draws it or when. Integer arithmetic only: the same bits on every device.
"""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_NUM_ROUNDS = 10


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """One block of random words for every counter.

    Args:
        counter: int64 `[..., 4]` of 32-bit words, least significant first; higher bits must be zero.
        key: int64 `[..., 2]` of 32-bit words, broadcast against the counters.

    Returns:
        int64 `[..., 4]`, each word in 0 .. 2**32 - 1.
    """
    word_0, word_1, word_2, word_3 = counter.unbind(-1)
    key_0, key_1 = key.unbind(-1)
    for _ in range(_NUM_ROUNDS):
        # int64 products wrap, which leaves the 64 bits of the unsigned product.
        product_0 = word_0 * _MULTIPLIERS[0]
        product_1 = word_2 * _MULTIPLIERS[1]
        word_0 = ((product_1 >> 32) & _WORD) ^ word_1 ^ key_0
        word_2 = ((product_0 >> 32) & _WORD) ^ word_3 ^ key_1
        word_1, word_3 = product_1 & _WORD, product_0 & _WORD
        key_0, key_1 = (key_0 + _WEYL[0]) & _WORD, (key_1 + _WEYL[1]) & _WORD
    return torch.stack(torch.broadcast_tensors(word_0, word_1, word_2, word_3), dim=-1)


def words_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high 32-bit words of int64 `values`, negative ones by their two's complement."""
    return values & _WORD, (values >> 32) & _WORD


def to_uniform(words: Tensor) -> Tensor:
    """32-bit words as float64 in the open interval (0, 1), exact and evenly spaced."""
    return (words.double() + 0.5) * 2.0**-32
