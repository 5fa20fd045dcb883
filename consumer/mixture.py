"""Which groups of a run are real: a pure function of the seed and the global index, evenly spread and not by luck.

Of every block of 64 indices as many are real as the share says, to the group, in the long run exactly. Within a block
they are those that come first in a fixed order: the second dimension of Sobol's sequence, turned by the seed. Any
aligned 2^k neighbours hold their part of the share, to one group, and so do the indices that one of 2^k ranks owns: for
a half it is the Thue-Morse sequence. Counting every other index off would give one of two ranks all real groups.
(Sobol 1967; that strided blocks are even too: binomials of consecutive columns have determinant 1.)
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import comb

_LOG_BLOCK = 6
_BLOCK = 1 << _LOG_BLOCK
_ONE = 1 << 32
"""The share is a multiple of one over this."""


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at a global index: whether it is real, and how many groups of its kind stand before it."""

    is_real: bool
    ordinal: int


class Mixture:
    """A run's share of real groups.

    Args:
        fraction: in [0, 1]. 0 and 1 are exact.
        seed: the run's.
    """

    def __init__(self, fraction: float, seed: int) -> None:
        self._share = round(fraction * _ONE)
        self._seed = seed
        # Neighbours meet in the same blocks; the indices of a stream lie in a few.
        self._block = lru_cache(maxsize=64)(self._places)

    def place(self, index: int) -> Place:
        """What stands at global `index` >= 0."""
        block, within = divmod(index, _BLOCK)
        return self._block(block)[within]

    def _places(self, block: int) -> list[Place]:
        """All places of a block."""
        before = self._num_real_before(block)
        num_real = self._num_real_before(block + 1) - before
        turn = hashlib.blake2b(f"mixture {self._seed} {block}".encode(), digest_size=1).digest()[0] % _BLOCK
        places = []
        num = 0
        for within in range(_BLOCK):
            is_real = _ORDER[within] ^ turn < num_real
            places.append(Place(is_real, before + num if is_real else block * _BLOCK + within - before - num))
            num += is_real
        return places

    def _num_real_before(self, block: int) -> int:
        """Real groups in all blocks before this one."""
        return block * _BLOCK * self._share // _ONE


def _sobol(index: int) -> int:
    """Element `index` of a block's order: bit i, from the top, is the sum of binomials C(j, i) over the set bits j."""
    bits = [j for j in range(_LOG_BLOCK) if index >> j & 1]
    return sum((sum(comb(j, i) for j in bits) & 1) << (_LOG_BLOCK - 1 - i) for i in range(_LOG_BLOCK))


_ORDER = [_sobol(index) for index in range(_BLOCK)]
