"""Balance of the long tail: how often concepts come is what was asked for, and not what the captions happen to hold.

Draws are a pure function of seed and index, and need no luck:

- *Which concept* stands at an index says an even sequence (`even_sequence.py`): concepts lie side by side, each as wide
  as its share, so after n prompts each has come n times its share to within O(log n), on every rank.
- *Which of its captions* says how often the concept has come before, which the sequence can count: all captions of a
  concept come once, in a random order, before any comes again, in another order (`keyed_order.py`).
- *Company changes.* Neighbours in an even sequence stay neighbours, and where a batch holds few of the concepts it
  would compare the same ones again and again. So indices are then shuffled within windows of as many as there are
  concepts, anew in each. (What all ranks get together stays as even; what one of several gets, to within chance.)

Captions of a concept that weigh differently, which only `metaclip` knows, are parted into runs of equal weight, to
within 1%; a run is to the sequence what a concept is above.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.balance.even_sequence import MODULUS, num_below, positions
from penstock.consumer.prompts.captions import Captions
from penstock.consumer.prompts.keyed_order import keyed, shuffled
from penstock.consumer.prompts.source import Prompt

_BLOCK = 4096
"""Indices that are worked out together, at least: what a block costs beside its indices is shared by so many."""
_FEW = 64
"""Concepts that most batches hold anyway: the windows begin above."""
_MAX_WINDOW = 1 << 16
"""Indices that are shuffled together, at most."""
_CACHED_BLOCKS = 64
"""A batch asks again for the concepts of its groups, which may have been in the reservoir for long. 262,144 rows."""
_OFFSET, _WINDOWS, _CAPTIONS = range(3)
"""What keys are for."""


class BalancedCaptions:
    """A prompt source: captions as often as they weigh.

    Args:
        captions: N of them, fewer than 2**32.
        codes: int32 [N], the concept of each.
        weights: float64 [N], at least 0 and not all 0: how often each is to come.
        seed: decides the order.
    """

    def __init__(self, captions: Captions, codes: NDArray[np.int32], weights: NDArray[np.float64], seed: int) -> None:
        self._captions = captions
        self._runs = _Runs(codes, weights)
        keys = keyed(np.array([seed], dtype=np.uint64), np.arange(3, dtype=np.uint64))
        self._offset = int(keys[_OFFSET]) % MODULUS
        self._window_key, self._caption_key = keys[_WINDOWS], keys[_CAPTIONS]
        num_runs = len(self._runs)
        self._window = min(_MAX_WINDOW, 1 << (num_runs - 1).bit_length()) if num_runs > _FEW else 1
        self._block = max(_BLOCK, self._window)
        self._rows = lru_cache(maxsize=_CACHED_BLOCKS)(self._draw)
        self.concepts = captions.concepts
        weights_digest = hashlib.sha256(np.ascontiguousarray(weights).data).hexdigest()
        self.digest = hashlib.sha256(f"balanced {captions.digest} {weights_digest}".encode()).hexdigest()

    @property
    def num_captions(self) -> int:
        """N."""
        return len(self._captions)

    def prompt(self, index: int) -> Prompt:
        """What stands at `index`."""
        return self._captions.caption(self.row(index))

    def row(self, index: int) -> int:
        """The row of the caption at `index`."""
        block, place = divmod(index, self._block)
        return int(self._rows(block)[place])

    def _draw(self, block: int) -> NDArray[np.uint32]:
        """Rows of a block of indices: uint32 [B]."""
        runs, start = self._runs, block * self._block
        run_B = np.searchsorted(runs.edges[1:], positions(start, self._block, self._offset), side="right")
        met_R, which_B, counts_R = np.unique(run_B, return_inverse=True, return_counts=True)
        before_R = num_below(runs.edges[met_R + 1], start, self._offset)
        before_R -= num_below(runs.edges[met_R], start, self._offset)
        # How often each run has come before each index: before the block, and in it.
        first_R = np.cumsum(counts_R) - counts_R
        in_block_B = np.empty(self._block, dtype=np.uint64)
        in_block_B[np.argsort(which_B, kind="stable")] = np.arange(self._block) - np.repeat(first_R, counts_R)
        size_B = runs.sizes[run_B]
        epoch_B, place_B = np.divmod(before_R[which_B] + in_block_B, size_B)
        keys_B = keyed(keyed(self._caption_key, run_B.astype(np.uint64)), epoch_B)
        rows: NDArray[np.uint32] = runs.rows[runs.starts[run_B] + shuffled(place_B, size_B, keys_B)]
        return rows if self._window == 1 else rows[self._company(start)]

    def _company(self, start: int) -> NDArray[np.int64]:
        """Where each index of a block finds its row: int64 [B], a permutation within every window."""
        indices = np.arange(self._block, dtype=np.uint64) + np.uint64(start)
        lots = keyed(self._window_key, indices).reshape(-1, self._window)
        orders = np.argsort(lots, axis=1, kind="stable")
        return (orders + np.arange(0, self._block, self._window)[:, None]).ravel()


class _Runs:
    """Rows side by side: those of a concept that weigh the same, to within 1%, are a run.

    Args:
        codes, weights: as in `BalancedCaptions`.
    """

    def __init__(self, codes: NDArray[np.int32], weights: NDArray[np.float64]) -> None:
        # Exponent and 7 bits of the fraction; a logarithm's last bits are not the same everywhere.
        bin_N = (weights.view(np.int64) >> 45).astype(np.int32)
        rows = _by_concept(codes, np.flatnonzero(weights > 0))
        if np.any((np.diff(codes[rows]) == 0) & (np.diff(bin_N[rows]) != 0)):
            rows = rows[np.lexsort((bin_N[rows], codes[rows]))]
        self.rows: NDArray[np.uint32] = rows
        """uint32 [N']: the rows that are ever to come, run by run."""
        begins = np.append(True, (np.diff(codes[rows]) != 0) | (np.diff(bin_N[rows]) != 0))
        self.starts: NDArray[np.uint64] = np.flatnonzero(begins).astype(np.uint64)
        """uint64 [R]: where each run begins in `rows`."""
        self.sizes: NDArray[np.uint64] = np.diff(self.starts, append=np.uint64(len(self.rows)))
        """uint64 [R]: rows of each."""
        ends = np.cumsum(np.add.reduceat(weights[self.rows], self.starts.astype(np.int64)))
        # One position for each, that none is lost; the others by weight.
        others = np.round(ends / ends[-1] * (MODULUS - len(self.starts))).astype(np.uint64)
        ones = np.arange(len(self.starts) + 1, dtype=np.uint64)
        self.edges: NDArray[np.uint64] = np.append(np.uint64(0), others) + ones
        """uint64 [R + 1]: run r has the positions from edge r to edge r + 1."""

    def __len__(self) -> int:
        return len(self.starts)


def _by_concept(codes: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The rows, ordered by concept and within it by themselves: uint32. Sorts numbers, four times as fast as places."""
    keys = codes[rows].astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= rows.view(np.uint64)
    keys.sort()
    return keys.astype(np.uint32)
