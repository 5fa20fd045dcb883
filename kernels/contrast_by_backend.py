"""The contrast of rows by the implementation that was asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.backends import Backend, check_backend
from penstock.kernels.contrast import PairKernels, contrast
from penstock.kernels.contrast_chunked import ChunkedKernels
from penstock.kernels.contrast_reference import contrast_reference


def contrast_by(
    backend: Backend,
    features: Sequence[Tensor],
    labels: Sequence[Tensor],
    temperature: float | Tensor,
    group: ProcessGroup | None,
    chunk_size: int | None,
) -> Tensor:
    """`contrast` by the backend of that name, in float32, or float64 where all features have it.

    Raises ValueError for an unknown backend, a chunk_size < 1, or features that the backend cannot work on.
    """
    for rows in features:
        if backend == "triton" and rows.dtype == torch.float64:
            raise ValueError("backend 'triton' sums in float32: features must be of another dtype than torch.float64")
        check_backend(backend, "features", rows)
    kernels: PairKernels = ChunkedKernels(chunk_size)  # whose size is checked whatever the backend
    if backend == "reference":
        doubles = all(rows.dtype == torch.float64 for rows in features)
        loss = contrast_reference(features, labels, temperature, group)
        return loss if doubles else loss.float()
    if backend == "triton":
        from penstock.kernels.contrast_triton import TritonKernels

        kernels = TritonKernels()
    return contrast(features, labels, temperature, group, kernels)
