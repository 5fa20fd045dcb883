"""An endless sequence of positions that falls into every interval in proportion to its width, and says how often.

Position i is (offset + i·G) mod 2**32, Kronecker's sequence of the golden ratio in whole numbers: of all irrational
steps it is spread most evenly (Knuth, TAOCP 3, 6.4, theorem S), so that among the first n positions an interval has its
share to within O(log n), where random draws miss it by O(√n). Whole numbers are the same on every machine, and can be
counted without being made: how many of the first n fall below an edge is a difference of two sums of floors, for which
Euclid's algorithm takes some 40 steps however large n is.
"""

import numpy as np
from numpy.typing import NDArray

MODULUS = 1 << 32
"""Positions there are. G is odd, so each comes once in as many indices."""
_STEP = 2654435521
"""G, near 2**32 over the golden ratio: the nearest whose continued fraction by 2**32 has no quotient above 3, so that
nothing clusters at large n either. (The rounded ratio itself, Fibonacci hashing's, has a 25.)"""
_MASK = np.uint64(MODULUS - 1)


def positions(start: int, num: int, offset: int) -> NDArray[np.uint64]:
    """Positions of the indices from `start` on: uint64 [num], below MODULUS."""
    indices = np.arange(num, dtype=np.uint64) + np.uint64(start % MODULUS)
    return (indices * np.uint64(_STEP) + np.uint64(offset)) & _MASK


def num_below(edges: NDArray[np.uint64], start: int, offset: int) -> NDArray[np.uint64]:
    """How many of the positions of indices 0 to start - 1 are below each edge.

    Args:
        edges: uint64 [E], at most MODULUS.
        start: an index.
        offset: of the sequence, below MODULUS.

    Returns:
        uint64 [E].
    """
    periods, rest = divmod(start, MODULUS)
    # x mod M < e exactly where floor((x + M) / M) is one more than floor((x + M - e) / M).
    all_of_them = np.full(1, offset + MODULUS, dtype=np.uint64)
    without_edge = np.uint64(offset + MODULUS) - edges
    counts: NDArray[np.uint64] = _floor_sum(rest, all_of_them) - _floor_sum(rest, without_edge)
    return counts + np.uint64(periods) * edges


def _floor_sum(num: int, b_E: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Σ over i < num of floor((G·i + b) / MODULUS), modulo 2**64, for each b; num < MODULUS, b <= 2·MODULUS."""
    total_E = np.zeros_like(b_E)
    num_E = np.full_like(b_E, num)
    a, m = _STEP, MODULUS
    one = np.uint64(1)
    # Wrapping is meant: only differences of the sums count, and those are small.
    with np.errstate(over="ignore"):
        while a and num_E.any():
            quotient, a = divmod(a, m)
            total_E += num_E * (num_E - one) // np.uint64(2) * np.uint64(quotient)
            whole_E, b_E = np.divmod(b_E, np.uint64(m))
            total_E += num_E * whole_E
            # What is under the line counted by columns is counted by rows instead: the axes change places.
            num_E, b_E = np.divmod(num_E * np.uint64(a) + b_E, np.uint64(m))
            a, m = m, a
    return total_E
