"""Multi-positive contrastive loss of images against images (arXiv 2306.00984, eq. 1-3), exact in labels.

With two views of every image it is SimCLR's NT-Xent (arXiv 2002.05709, eq. 1). The formulas stand in `contrast`.
"""

from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.backends import Backend
from penstock.kernels.contrast import check_rows, check_temperature
from penstock.kernels.contrast_by_backend import contrast_by


def multipos_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor,
    group: ProcessGroup | None = None,
    backend: Backend = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """Mean multi-positive contrastive loss over the rows of every rank in `group`.

    Rows are L2-normalised here, in float32 (float64 stays float64), whatever autocast says; all sums run in
    that precision too. A row whose label nobody shares loses nothing and still is a negative for the others.

    Under a group every rank gets the same value, and gradients are world_size times those of the global mean,
    so that DistributedDataParallel's averaging yields exactly the gradient of one process that holds all
    rows. Local row counts may differ. The backward pass needs no collective.

    Args:
        features: `[n, D]` floating point, not necessarily normalised.
        labels: int64 `[n]` on the same device; equal labels are positives, on this and on other ranks. They are
            compared bit for bit and may be others in every batch.
        temperature: > 0; a one-element tensor may require grad (its value is not checked, which would wait
            for the device).
        group: ranks that share the batch; None means that this process is alone, even where a default group
            exists.
        backend: see `penstock.kernels.backends`.
        chunk_size: side of the square tiles of similarities that the backend `chunked` forms at a time; None
            chooses by device.

    Returns:
        Scalar, float32 (float64 for float64 features).

    Raises:
        ValueError: wrong shapes, labels that are not int64, a temperature or chunk_size that is not positive,
            no rows, a backend that is unknown or cannot work on these features.
    """
    check_rows("features", features, "labels", labels)
    check_temperature(temperature)
    return contrast_by(backend, [features], [labels], temperature, group, chunk_size)
