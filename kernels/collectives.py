"""Exchange of rows between ranks, for losses and normalisations that see the global batch.

Local batches may differ in size: counts are exchanged first and rows padded to the largest. Several tensors
travel in one collective as bytes, so that int64 labels arrive bit for bit beside float features. Works on
gloo and nccl.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def default_group() -> ProcessGroup | None:
    """The default process group if it has more than one rank, else None (this process trains alone)."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def gather_counts(num_rows: int, device: torch.device, group: ProcessGroup) -> list[int]:
    """Every rank's `num_rows`, in rank order. Waits for the device, as the sizes are needed on the host."""
    counts = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(group.size())]
    dist.all_gather(counts, torch.tensor([num_rows], dtype=torch.int64, device=device), group=group)
    return [int(count) for count in torch.cat(counts).tolist()]


def gather_rows(tensors: Sequence[Tensor], counts: Sequence[int], group: ProcessGroup) -> list[Tensor]:
    """Rows of all ranks in rank order, without gradient, in one collective.

    Args:
        tensors: each `[n, ...]` with this rank's `n`, any dtype, the same trailing shapes on every rank.
        counts: every rank's `n`, from `gather_counts`.

    Returns:
        One `[sum(counts), ...]` tensor for each tensor given.
    """
    num_rows = counts[group.rank()]
    as_bytes = [_rows_as_bytes(tensor) for tensor in tensors]
    widths = [rows.shape[1] for rows in as_bytes]
    packed = torch.zeros(max(counts), sum(widths), dtype=torch.uint8, device=tensors[0].device)
    packed[:num_rows] = torch.cat(as_bytes, dim=1)
    received = [torch.empty_like(packed) for _ in counts]
    dist.all_gather(received, packed, group=group)
    rows = torch.cat([buffer[:count] for buffer, count in zip(received, counts, strict=True)])
    # A slice of a single row passes for contiguous, with a stride and a start that a wider dtype may not have.
    return [
        part.clone(memory_format=torch.contiguous_format).view(tensor.dtype).reshape(-1, *tensor.shape[1:])
        for part, tensor in zip(rows.split(widths, dim=1), tensors, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Side:
    """Rows of one kind, images or texts, of all ranks: what the rows of a kind are compared with."""

    local: Tensor
    """`[n, D]`, this rank's rows, as they were given."""
    rows: Tensor
    """`[N, D]`, all ranks' rows in rank order; `local` itself where this process is alone."""
    labels: Tensor
    """int64 `[N]`."""
    first: int
    """Where this rank's rows start in `rows`."""
    places: Tensor | slice
    """Where `rows` stand among the gathered rows of all kinds."""

    @property
    def of_this_rank(self) -> slice:
        """This rank's part of `rows`."""
        return slice(self.first, self.first + len(self.local))


def gather_sides(
    rows: Tensor, labels: Tensor, sizes: Sequence[int], group: ProcessGroup | None
) -> tuple[list[Side], list[int]]:
    """Rows of several kinds from all ranks in one collective, the number of rows apart; without gradient.

    Args:
        rows: `[n, D]`, this rank's rows, kind after kind.
        labels: int64 `[n]`.
        sizes: rows of each kind, of sum n; may differ between ranks.
        group: None means that this process is alone, and nothing is copied.

    Returns:
        A `Side` for each kind, and every rank's n.
    """
    kinds = torch.repeat_interleave(torch.tensor(sizes)).to(torch.uint8)
    starts = [sum(sizes[:kind]) for kind in range(len(sizes))]
    parts = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    if group is None:
        return [Side(rows[part], rows[part], labels[part], 0, part) for part in parts], [len(rows)]
    counts = gather_counts(len(rows), rows.device, group)
    all_rows, all_labels, all_kinds = gather_rows([rows, labels, kinds.to(rows.device)], counts, group)
    num_before = sum(counts[: group.rank()])
    sides = []
    for kind, part in enumerate(parts):
        places = (all_kinds == kind).nonzero().squeeze(1)
        first = int((all_kinds[:num_before] == kind).sum())
        sides.append(Side(rows[part], all_rows[places], all_labels[places], first, places))
    return sides, counts


def _rows_as_bytes(tensor: Tensor) -> Tensor:
    num_rows = tensor.shape[0]
    width = tensor[0:1].numel() if num_rows else tensor.shape[1:].numel()
    return tensor.detach().contiguous().reshape(num_rows, width).view(torch.uint8)
