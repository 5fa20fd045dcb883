"""Random orders that need no memory: what stands at a place of a shuffled deck follows from a key.

A Feistel network over the pairs (left, right) of a grid that holds the deck, walked again where it leaves the deck
(Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Not for secrets: rounds mix by SplitMix64.
It is integer arithmetic, and so the same on every machine and in every version of NumPy, whose own `permutation`
promises neither and takes memory by the deck.
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 3
"""Of both halves each."""
_GAMMA = 0x9E3779B97F4A7C15


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: 64 well mixed bits of each value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def keyed(key: NDArray[np.uint64], number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A key of a key and a number; both broadcast."""
    return mix(key ^ mix(number + np.uint64(_GAMMA)))


def shuffled(places: NDArray[np.uint64], sizes: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What stands at each place of its deck.

    Args:
        places: uint64 [N], each below its size.
        sizes: uint64 [N], cards in the decks, 1 to 2**62.
        keys: uint64 [N]: equal sizes and keys are one deck.

    Returns:
        uint64 [N]; over the places of a deck a permutation of them.
    """
    # Any side does, as long as the grid holds the deck; near the root it holds little more.
    lefts = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    rights = (sizes + lefts - np.uint64(1)) // lefts
    cards = _walk(places, lefts, rights, keys)
    while len(beyond := np.flatnonzero(cards >= sizes)):
        cards[beyond] = _walk(cards[beyond], lefts[beyond], rights[beyond], keys[beyond])
    return cards


def _walk(
    cards: NDArray[np.uint64], lefts: NDArray[np.uint64], rights: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """One pass of the network over grids of lefts × rights cells."""
    left, right = np.divmod(cards, rights)
    for turn in range(_ROUNDS):
        # A half is below 2**32 and its round's number stands above it, so no two rounds share a function.
        left = (left + (mix(keys + right + np.uint64(2 * turn << 32)) >> np.uint64(32))) % lefts
        right = (right + (mix(keys + left + np.uint64(2 * turn + 1 << 32)) >> np.uint64(32))) % rights
    return left * rights + right
