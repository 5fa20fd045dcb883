"""The contrast of rows by the implementation that was asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.backends import Backend, check_backend
from penstock.kernels.contrast import PairKernels, contrast
from penstock.kernels.contrast_chunked import ChunkedKernels
from penstock.kernels.contrast_inputs import Rows, working_dtype
from penstock.kernels.contrast_reference import contrast_reference


def contrast_by(
    backend: Backend,
    kinds: Sequence[Rows],
    temperature: float | Tensor,
    group: ProcessGroup | None,
    chunk_size: int | None,
) -> Tensor:
    """`contrast` by the backend of that name, in float32, or float64 where all features have it.

    Raises ValueError for an unknown backend, a chunk_size < 1, or features that the backend cannot work on.
    """
    dtype = working_dtype(kinds)
    if backend == "triton" and dtype == torch.float64:
        names = " or ".join(kind.name for kind in kinds)
        raise ValueError(f"backend 'triton' sums in float32: {names} must be of another dtype than torch.float64")
    for kind in kinds:
        check_backend(backend, kind.name, kind.features)
    kernels: PairKernels = ChunkedKernels(chunk_size)  # whose size is checked whatever the backend
    if backend == "reference":
        return contrast_reference(kinds, temperature, group).to(dtype)
    if backend == "triton":
        from penstock.kernels.contrast_triton import TritonKernels

        kernels = TritonKernels()
    return contrast(kinds, temperature, group, kernels)
