"""A pseudo-random order of N things that is never written down: a keyed permutation of [0, N).

One deck of `keyed_order.py`, with a key of any length.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.keyed_order import shuffled


class KeyedPermutation:
    """One of the orders of N things.

    Args:
        num_rows: N, in [1, 2**62].
        key: decides which order, whatever its length.
    """

    def __init__(self, num_rows: int, key: str) -> None:
        self._num_rows = num_rows
        digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"penstock-order").digest()
        self._key = np.frombuffer(digest, "<u8").astype(np.uint64)

    def __call__(self, positions: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """What stands at these positions: uint64 [n], each below N."""
        sizes = np.full(len(positions), self._num_rows, dtype=np.uint64)
        return shuffled(positions, sizes, np.broadcast_to(self._key, sizes.shape))
