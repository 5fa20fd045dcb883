"""Multi-positive contrastive loss of images against images (arXiv 2306.00984, eq. 1-3), exact in labels.

With two views of every image it is SimCLR's NT-Xent (arXiv 2002.05709, eq. 1). The formulas stand in `contrast`.
"""

from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.backends import Backend
from penstock.kernels.contrast_by_backend import contrast_by
from penstock.kernels.contrast_inputs import Rows, check_temperature


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

    Rows are L2-normalised here, in float32 (float64 stays float64), whatever autocast says, and sums are kept in that
    precision too. A row whose label nobody shares loses nothing and still is a negative for the others.

    float32 matrix products follow `torch.set_float32_matmul_precision`, as all of PyTorch's do (`triton` has its own,
    as exact as float32). Below "highest" they may be TF32's, which moves a cosine by up to 1e-3, or bfloat16's, by up
    to 8e-3, and a similarity by that over the temperature. Float32 itself moves it by some 1e-7 over the temperature:
    a loss near 0 may come out that much below it.

    Under a group every rank gets the same value, and gradients are world_size times those of the global mean,
    so that DistributedDataParallel's averaging yields exactly the gradient of one process that holds all
    rows. That holds of their mean: a rank's own gradient in the temperature is world_size times its rows' part by
    `chunked` and `triton`, but the whole by `reference`. Local row counts may differ, but every rank's rows travel
    padded to the most that a rank has. The backward pass needs no collective.

    Args:
        features: `[n, D]` floating point, not necessarily normalised.
        labels: int64 `[n]` on the same device; equal labels are positives, on this and on other ranks. They are
            compared bit for bit and may be others in every batch.
        temperature: finite and >= 1e-6; a one-element tensor may require grad. Its value is checked on the CPU alone:
            elsewhere that would wait for the device, and the loss is what the formula makes of it.
        group: ranks that share the batch; None means that this process is alone, even where a default group
            exists.
        backend: see `penstock.kernels.backends`.
        chunk_size: side of the square tiles of similarities that the backend `chunked` forms at a time; None
            chooses by device.

    Returns:
        Scalar, float32 (float64 for float64 features); only that of `reference` can be differentiated twice.

    Raises:
        ValueError: wrong shapes, labels that are not int64 or on another device, a temperature that is out of bounds,
            chunk_size < 1, no rows, a backend that is unknown or cannot work on these features.
        RuntimeError: in backward, where create_graph is asked of another backend than `reference`.
    """
    check_temperature(temperature)
    return contrast_by(backend, [Rows("features", features, "labels", labels)], temperature, group, chunk_size)
