"""The vectors nearest to a query among many on the disk: exact, by inner product, a block of rows at a time."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 64 << 20
"""Of a block, as float32."""


def has_faiss() -> bool:
    """Whether FAISS (Johnson et al. 2017) is installed: it does the same sums on all cores."""
    return find_spec("faiss") is not None


def nearest(
    vectors: NDArray[np.float16], query: NDArray[np.float32], num: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `num` rows with the largest inner products, or all where there are fewer.

    Args:
        vectors: float16 [N, D]; may be mapped from a file, of which no more than a block is in memory.
        query: float32 [D].
        num: at least 1.

    Returns:
        float32 [k] products, descending, and int64 [k] rows; equal products in the order of their rows.
    """
    rows_at_a_time = max(1, _BLOCK_BYTES // (4 * max(1, vectors.shape[1])))
    faiss = import_module("faiss") if has_faiss() else None
    products, rows = np.empty(0, np.float32), np.empty(0, np.int64)
    for start in range(0, len(vectors), rows_at_a_time):
        block = np.ascontiguousarray(vectors[start : start + rows_at_a_time], np.float32)
        near, places = _by_faiss(faiss, block, query, num) if faiss else _by_numpy(block, query, num)
        products, rows = np.concatenate([products, near]), np.concatenate([rows, places + start])
        order = np.lexsort((rows, -products))[:num]
        products, rows = products[order], rows[order]
    return products, rows


def _by_faiss(
    faiss: Any, block: NDArray[np.float32], query: NDArray[np.float32], num: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    index = faiss.IndexFlatIP(block.shape[1])
    index.add(block)
    products, places = index.search(query[None], min(num, len(block)))
    return products[0], places[0]


def _by_numpy(
    block: NDArray[np.float32], query: NDArray[np.float32], num: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    products = block @ query
    places = np.argpartition(-products, min(num, len(block)) - 1)[:num]
    return products[places], places
