"""A pseudo-random order of N things that is never written down: a keyed permutation of [0, N).

A generalised Feistel network with cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains",
section 5): numbers below a·b ≥ N are pairs (l, r) with l below a and r below b; each round adds a keyed hash of one
half to the other, which can be undone and so maps no two numbers to one; what comes out at N or above goes in again.
It is integer arithmetic alone, and so the same on every machine and in every version of NumPy, whose own
`permutation` promises neither and takes memory by N.
"""

import hashlib
from math import isqrt

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
_Words = NDArray[np.uint64]


class KeyedPermutation:
    """One of the orders of N things.

    Args:
        num_rows: N, in [1, 2**62].
        key: decides which order, whatever its length.
    """

    def __init__(self, num_rows: int, key: str) -> None:
        self._num_rows = num_rows
        wide = isqrt(num_rows - 1) + 1
        self._sides = (wide, -(-num_rows // wide))
        digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS, person=b"penstock-order").digest()
        self._keys = np.frombuffer(digest, "<u8").astype(np.uint64)

    def __call__(self, positions: _Words) -> _Words:
        """What stands at these positions: uint64 [n], each below N."""
        rows = self._network(positions)
        while len(outside := np.flatnonzero(rows >= self._num_rows)):
            rows[outside] = self._network(rows[outside])
        return rows

    def _network(self, numbers: _Words) -> _Words:
        left_side, right_side = self._sides
        left, right = np.divmod(numbers, np.uint64(right_side))
        for key in self._keys:
            left, right = right, (left + _mixed(right + key)) % np.uint64(left_side)
            left_side, right_side = right_side, left_side
        return left * np.uint64(right_side) + right


def _mixed(words: _Words) -> _Words:
    """A hash of 64 bits to 32: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, variant 13 of Stafford's)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words ^ (words >> np.uint64(31))) >> np.uint64(32)
