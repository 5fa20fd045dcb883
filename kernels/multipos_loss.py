"""Multi-positive contrastive loss (arXiv 2306.00984, eq. 1-3), exact in labels, linear in memory.

With unit rows f_i, s_ij = f_i.f_j / temperature, M_ij = [y_i = y_j, i != j] and c_i = sum_j M_ij, row i loses

    l_i = lse_{j != i}(s_ij) - (1 / c_i) sum_j M_ij s_ij        where c_i > 0, else 0

and the loss is the mean over the N rows of all ranks. With a_i = [c_i > 0] / N and P_ij = exp(s_ij - lse_i),

    dL/df_i = (1 / temperature) [ sum_{j != i} (a_i P_ij + a_j P_ji) f_j - 2 (a_i / c_i) sum_j M_ij f_j ]

since rows that share a label share a and c. The last sum is the label's total less f_i, so no N x N mask is
ever made; the first is formed chunk by chunk from lse alone. That is 6 N^2 D FLOP, no atomics, and N *
chunk_size memory.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from penstock.kernels.collectives import gather_counts, gather_rows


def multipos_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor,
    group: ProcessGroup | None = None,
    chunk_size: int = 256,
) -> Tensor:
    """Mean multi-positive contrastive loss over the rows of every rank in `group`.

    Rows are L2-normalised here, in float32 (float64 stays float64), whatever autocast says; all sums run in
    that precision too. A row whose label nobody shares loses nothing and still is a negative for the others.

    Under a group every rank gets the same value, and gradients are world_size times those of the global mean,
    so that DistributedDataParallel's averaging yields exactly the gradient of one process that holds all
    rows. Local row counts may differ. The backward pass needs no collective.

    Args:
        features: `[n, D]` floating point, not necessarily normalised.
        labels: int64 `[n]` on the same device; equal labels are positives, on this and on other ranks.
        temperature: > 0; a one-element tensor may require grad (its value is not checked, which would wait
            for the device).
        group: ranks that share the batch; None means that this process is alone, even where a default group
            exists.
        chunk_size: rows of the similarity matrix formed at a time.

    Returns:
        Scalar, float32 (float64 for float64 features).

    Raises:
        ValueError: wrong shapes, labels that are not int64, a temperature or chunk_size that is not positive,
            no rows.
    """
    _check(features, labels, temperature, chunk_size)
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)
        inverse_temperature = (
            torch.as_tensor(temperature, dtype=unit.dtype, device=unit.device).reshape(()).reciprocal()
        )
        apply: Callable[..., Tensor] = _MultiPosLoss.apply
        return apply(unit, labels, inverse_temperature, group, chunk_size)


def multipos_loss_reference(features: Tensor, labels: Tensor, *, temperature: float | Tensor) -> Tensor:
    """The same function for one process by plain autograd in float64, with every N x N matrix spelt out.

    `features [n, D]`, `labels` int64 `[n]`; returns a float64 scalar. For tests and for reading.
    """
    unit = F.normalize(features.double(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    target = positives.double() / positives.sum(dim=1, keepdim=True).clamp(min=1)
    log_probability = logits.log_softmax(dim=1)
    # A masked entry is 0 * -inf, hence `where`.
    return -(target * log_probability.where(positives, 0.0)).sum(dim=1).mean()


def _check(features: Tensor, labels: Tensor, temperature: float | Tensor, chunk_size: int) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating point [n, D], got {features.dtype} {list(features.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 (they are hashes, never rounded), got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be [{features.shape[0]}], one for each row, got {list(labels.shape)}")
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ValueError(f"temperature must have one element, got shape {list(temperature.shape)}")
    elif not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1, got {chunk_size}")


class _MultiPosLoss(torch.autograd.Function):
    """The loss of unit rows `[n, D]` by the formulas above; saves nothing larger than the rows themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        labels: Tensor,
        inverse_temperature: Tensor,
        group: ProcessGroup | None,
        chunk_size: int,
    ) -> Tensor:
        all_rows, all_labels, first, counts = _gather_batch(unit, labels, group)
        num_rows, local = len(all_rows), slice(first, first + len(unit))
        if num_rows == 0:
            raise ValueError("features must have at least one row on some rank, got none")

        num_positives, positives_sum = _sum_of_positives(all_rows, all_labels, local)
        mean_positive = (unit * positives_sum).sum(dim=1) * inverse_temperature / num_positives[local].clamp(min=1)
        lse = torch.empty_like(mean_positive)
        for start, logits in _logit_chunks(unit, all_rows, inverse_temperature, first, chunk_size):
            lse[start : start + chunk_size] = logits.logsumexp(dim=1)
        # A batch of one row has no other row to sum over.
        lse = lse.where(~lse.isneginf(), 0.0)
        losses = (lse - mean_positive).where(num_positives[local] > 0, 0.0)
        if group is not None:
            lse, losses = gather_rows([lse, losses], counts, group)

        # a_i exp(s_ij - lse_i) = exp(s_ij - shift_i); a row without positives has weight 0, that is shift
        # +inf.
        weight = (num_positives > 0).to(unit.dtype) / num_rows
        shift = lse - weight.log()
        pull = 2 * weight / num_positives.clamp(min=1)
        ctx.save_for_backward(unit, all_rows, shift, pull[local, None] * positives_sum, inverse_temperature)
        ctx.first, ctx.chunk_size = first, chunk_size
        ctx.world_size = 1 if group is None else group.size()
        return losses.sum() / num_rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        unit, all_rows, shift, pull, inverse_temperature = ctx.saved_tensors
        with torch.autocast(unit.device.type, enabled=False):
            grad_rows = torch.empty_like(unit)
            for start, logits in _logit_chunks(unit, all_rows, inverse_temperature, ctx.first, ctx.chunk_size):
                chunk = slice(start, start + len(logits))
                as_anchor = (logits - shift[ctx.first :][chunk, None]).exp_()
                as_negative = logits.sub_(shift).exp_()
                torch.mm(as_anchor.add_(as_negative), all_rows, out=grad_rows[chunk])
            grad_rows.sub_(pull).mul_(inverse_temperature)
            # Each s_ij holds two rows, so sum <dL/df_i, f_i> counts every dL/ds_ij s_ij twice.
            grad_inverse = (grad_rows * unit).sum() / (2 * inverse_temperature)
            scale = grad_loss * ctx.world_size
        return grad_rows.mul_(scale), None, grad_inverse * scale, None, None


def _gather_batch(unit: Tensor, labels: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor, int, list[int]]:
    """All ranks' rows and labels, the index of this rank's first row, and every rank's row count."""
    if group is None:
        return unit, labels, 0, [len(unit)]
    counts = gather_counts(len(unit), unit.device, group)
    all_rows, all_labels = gather_rows([unit, labels], counts, group)
    return all_rows, all_labels, sum(counts[: group.rank()]), counts


def _sum_of_positives(all_rows: Tensor, labels: Tensor, local: slice) -> tuple[Tensor, Tensor]:
    """`[N]` number of positives of every row, and `[n, D]` the sum of the positives of each local row.

    Sorted segments rather than `index_add_`, whose atomics would make the sum's order a matter of luck on a
    GPU.
    """
    _, label_index, label_counts = labels.unique(return_inverse=True, return_counts=True)
    in_label_order = all_rows[label_index.argsort(stable=True)]
    totals = torch.segment_reduce(in_label_order, "sum", lengths=label_counts, axis=0)
    return label_counts[label_index] - 1, totals[label_index[local]] - all_rows[local]


def _logit_chunks(
    unit: Tensor, all_rows: Tensor, inverse_temperature: Tensor, first: int, chunk_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yields (start, `[chunk, N]` logits of local rows start..start+chunk, -inf at the row itself)."""
    for start in range(0, len(unit), chunk_size):
        logits = (unit[start : start + chunk_size] * inverse_temperature) @ all_rows.T
        logits.diagonal(first + start).fill_(-torch.inf)
        yield start, logits
