"""The contrastive losses by plain autograd in float64, every matrix of all pairs spelt out. To read and to test by."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.collectives import Side, gather_sides
from penstock.kernels.contrast import check_not_empty
from penstock.kernels.contrast_inputs import Rows, inverse, unit_rows


def contrast_reference(kinds: Sequence[Rows], temperature: float | Tensor, group: ProcessGroup | None) -> Tensor:
    """What `contrast` computes, as a float64 scalar; O(N^2) memory on every rank.

    Under a group every rank forms the whole loss, from its own rows with gradient and the others' without. So a rank's
    gradient in the temperature is that of the whole, where `contrast` gives world_size times the rank's part of it;
    their means over the ranks are the same.
    """
    unit = unit_rows(kinds, torch.float64)
    labels, sizes = torch.cat([kind.labels for kind in kinds]), [len(kind.labels) for kind in kinds]
    sides, _ = gather_sides(unit, labels, sizes, group)
    check_not_empty(kinds, sides)
    world_size = 1 if group is None else group.size()
    rows = [_with_gradient(side, world_size) for side in sides]
    scale = inverse(temperature, unit)
    losses = []
    for number, side in enumerate(sides):
        facing = len(sides) - 1 - number
        logits = rows[number] @ rows[facing].T * scale
        positives = side.labels[:, None] == sides[facing].labels
        if facing == number:
            itself = torch.eye(len(positives), dtype=torch.bool, device=positives.device)
            logits, positives = logits.masked_fill(itself, -torch.inf), positives & ~itself
        target = positives.double() / positives.sum(dim=1, keepdim=True).clamp(min=1)
        # A masked entry is 0 * -inf, hence `where`.
        log_probability = logits.log_softmax(dim=1).where(positives, 0.0)
        losses.append(-(target * log_probability).sum(dim=1).mean())
    return torch.stack(losses).mean()


def _with_gradient(side: Side, world_size: int) -> Tensor:
    """All rows, `[N, D]`; this rank's are a function of `side.local` whose gradient is multiplied by world_size."""
    if world_size == 1:
        return side.local
    constant = (1 - world_size) * side.local.detach()
    own = side.of_this_rank
    return torch.cat([side.rows[: own.start], side.local * world_size + constant, side.rows[own.stop :]])
