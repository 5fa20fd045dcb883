"""The sums over all pairs in plain PyTorch, one square tile of the similarities at a time.

The matrix products are the library's, the rest stays in the cache while it is worked on. Where the queries are all the
keys the similarities are symmetric, and the tiles below the diagonal are those above it, transposed: that saves half of
the first product and half of the exponentials, 4 N^2 D FLOP for forward and backward together in place of 6.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Two tiles of float32 in a core's cache; on an accelerator, enough work for each of its launches.
_HOST_CHUNK, _DEVICE_CHUNK = 256, 4096


@dataclass(frozen=True, slots=True)
class ChunkedKernels:
    """`PairKernels` for every device and precision."""

    chunk_size: int | None = None
    """Side of a tile, in rows; None chooses by device. More memory, fewer calls."""

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1, got {self.chunk_size}")

    def lse(self, queries: Tensor, keys: Tensor, inverse_temperature: Tensor, first: int | None) -> Tensor:
        """`[n]`, see `PairKernels`."""
        total = queries.new_full((len(queries),), -torch.inf)
        for rows, columns, logits, is_mirrored in self._tiles(queries, keys, inverse_temperature, first):
            _add_exp(total[rows], logits.logsumexp(dim=1))
            if is_mirrored:
                _add_exp(total[columns], logits.logsumexp(dim=0))
        return total

    def weighted_keys(
        self,
        queries: Tensor,
        keys: Tensor,
        query_shifts: Tensor,
        key_shifts: Tensor,
        inverse_temperature: Tensor,
        first: int | None,
    ) -> Tensor:
        """`[n, D]`, see `PairKernels`."""
        total, buffer = torch.zeros_like(queries), _Buffer(queries)
        for rows, columns, logits, is_mirrored in self._tiles(queries, keys, inverse_temperature, first):
            weights = torch.sub(logits, query_shifts[rows, None], out=buffer.of(*logits.shape)).exp_()
            weights.add_(logits.sub_(key_shifts[columns]).exp_())
            total[rows].addmm_(weights, keys[columns])
            if is_mirrored:
                total[columns].addmm_(weights.T, queries[rows])
        return total

    def _tiles(
        self, queries: Tensor, keys: Tensor, inverse_temperature: Tensor, first: int | None
    ) -> Iterator[tuple[slice, slice, Tensor, bool]]:
        """Yields rows, columns, their similarities, and whether the transposed tile is to be taken from this one too.

        The similarities lie in memory that the next tile uses again. -inf stands where a row meets itself.
        """
        size = self.chunk_size or (_HOST_CHUNK if queries.device.type == "cpu" else _DEVICE_CHUNK)
        is_symmetric, buffer = first == 0 and len(queries) == len(keys), _Buffer(queries)
        for top in range(0, len(queries), size):
            rows = slice(top, min(top + size, len(queries)))
            scaled = queries[rows] * inverse_temperature
            for left in range(top if is_symmetric else 0, len(keys), size):
                columns = slice(left, min(left + size, len(keys)))
                logits = buffer.of(len(scaled), columns.stop - left)
                torch.mm(scaled, keys[columns].T, out=logits)
                if first is not None:
                    logits.diagonal(first + top - left).fill_(-torch.inf)
                yield rows, columns, logits, is_symmetric and left > top


class _Buffer:
    """Memory that is used again for every tile."""

    def __init__(self, like: Tensor) -> None:
        self._memory = like.new_empty(0)

    def of(self, height: int, width: int) -> Tensor:
        """A contiguous `[height, width]` with whatever lies in it."""
        if self._memory.numel() < height * width:
            self._memory = self._memory.new_empty(height * width)
        return self._memory[: height * width].view(height, width)


def _add_exp(total: Tensor, more: Tensor) -> None:
    """Turns total into log(exp(total) + exp(more))."""
    torch.logaddexp(total, more, out=total)
