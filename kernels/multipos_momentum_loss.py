"""Multi-positive contrast of a student's rows against those of its moving average: SynCLR's loss (arXiv 2312.17742).

With unit student rows q_i, unit teacher rows k_j of all ranks, s_ij = q_i.k_j / temperature, M_ij = 1 where y_i = y_j,
i != j, else 0:

    l_i = log sum_{j != i} exp(s_ij) - (1 / c_i) sum_j M_ij s_ij        where c_i = sum_j M_ij > 0, else 0

and the loss is the mean of l over all ranks' rows. Row i of the teacher is of the same image as row i of the student:
the pair says nothing of other images, and takes no part. The teacher gets no gradient, so nothing but its rows travels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from penstock.kernels.collectives import gather_sides
from penstock.kernels.contrast_inputs import Rows, check_alike, check_temperature, unit_rows, working_dtype

_CHUNK_ROWS = 1024


def multipos_momentum_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    group: ProcessGroup | None = None,
    chunk_size: int = _CHUNK_ROWS,
) -> Tensor:
    """Mean loss over the rows of every rank in `group`; no more than `[chunk_size, N]` similarities exist at a time.

    Args:
        student: `[n, D]` floating point, not necessarily normalised; n may differ between ranks.
        teacher: `[n, D]` of the same images in the same order; no gradient flows into it.
        labels: int64 `[n]` on the same device; equal labels are positives, on this and on other ranks.
        temperature: finite and >= 1e-6.
        group: ranks that share the batch; None means that this process is alone.
        chunk_size: rows of the student that are compared at a time.

    Returns:
        Scalar, float32 (float64 where both have it): this rank's share of the mean, times the number of ranks, so that
        its mean over the ranks, and that of its gradients, is the whole batch's.

    Raises:
        ValueError: wrong shapes, labels that are not int64 or elsewhere, student and teacher of different numbers or
            widths, a temperature out of bounds, chunk_size < 1, no rows.
    """
    kinds = [Rows("student", student, "labels", labels), Rows("teacher", teacher.detach(), "labels", labels)]
    check_alike(*kinds)
    check_temperature(temperature)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1, got {chunk_size}")
    with torch.autocast(student.device.type, enabled=False):
        dtype = working_dtype(kinds)
        queries = unit_rows(kinds[:1], dtype)
        (side,), _ = gather_sides(unit_rows(kinds[1:], dtype), labels, [len(labels)], group)
        if len(side.rows) == 0:
            raise ValueError("student must have at least one row on some rank, got none")
        world_size = 1 if group is None else group.size()
        total = 0 * queries.sum()  # a rank without rows has a gradient too: none
        for start in range(0, len(queries), chunk_size):
            rows = slice(start, start + chunk_size)
            # Formed again in backward: the similarities of all rows would be the largest tensor of a step.
            total = total + checkpoint(
                _lost,
                queries[rows],
                side.rows,
                labels[rows],
                side.labels,
                side.first + start,
                temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return total * (world_size / len(side.rows))


def _lost(queries: Tensor, keys: Tensor, labels: Tensor, key_labels: Tensor, first: int, temperature: float) -> Tensor:
    """Sum of the losses of `queries [b, D]`, of which the first is of the same image as key `first`."""
    similarities = queries @ keys.T / temperature
    own = torch.arange(first, first + len(queries), device=queries.device)[:, None]
    positives = (labels[:, None] == key_labels).scatter(1, own, value=False)
    count = positives.sum(dim=1)
    log_shares = F.log_softmax(similarities.scatter(1, own, value=-torch.inf), dim=1)
    # A row's own share is log 0: it must be dropped, as 0 times it is no number.
    of_positives = log_shares.masked_fill(~positives, 0).sum(dim=1) / count.clamp(min=1)
    return -of_positives.where(count > 0, 0.0).sum()
