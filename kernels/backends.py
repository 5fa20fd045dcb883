"""Which implementation computes a loss. All compute the same function.

- `reference`: float64, plain autograd, matrices of all pairs in memory. To test the others by.
- `chunked`: plain PyTorch in tiles, linear in memory; every device and precision.
- `triton`: fused kernels that hold no tile in memory at all; float32 sums, on a CUDA device, or on the host under
  Triton's interpreter (`TRITON_INTERPRET=1` before the first use; small shapes only).
- `auto`: `chunked`, on a GPU too. The fused kernels have been checked in the interpreter and compiled for sm_90, but
  never timed: until a GPU shows that they beat cuBLAS in tiles, nobody gets them unasked.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.contrast import PairKernels, contrast
from penstock.kernels.contrast_chunked import ChunkedKernels
from penstock.kernels.contrast_reference import contrast_reference

Backend = Literal["auto", "reference", "chunked", "triton"]


def contrast_by(
    backend: Backend,
    features: Sequence[Tensor],
    labels: Sequence[Tensor],
    temperature: float | Tensor,
    group: ProcessGroup | None,
    chunk_size: int | None,
) -> Tensor:
    """`contrast` by the implementation of that name, in float32, or float64 where all features have it.

    Raises:
        ValueError: an unknown backend, a chunk_size < 1, or features that the backend cannot work on.
        ModuleNotFoundError: triton is asked for and not installed.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    chunked = ChunkedKernels(chunk_size)
    if backend == "reference":
        doubles = all(rows.dtype == torch.float64 for rows in features)
        loss = contrast_reference(features, labels, temperature, group)
        return loss if doubles else loss.float()
    kernels: PairKernels = _triton_kernels(features) if backend == "triton" else chunked
    return contrast(features, labels, temperature, group, kernels)


def _triton_kernels(features: Sequence[Tensor]) -> PairKernels:
    # Triton is no dependency of a machine without a GPU.
    from penstock.kernels.contrast_triton import TritonKernels

    for rows in features:
        TritonKernels.check(rows)
    return TritonKernels()
