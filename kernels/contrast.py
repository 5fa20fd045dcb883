"""The mechanism that the contrastive losses share: softmax contrast with several positives, linear in memory.

Rows come in one kind (StableRep: images against images) or two (CLIP: images against texts). With unit rows u_i of
a kind, keys v_j of the other kind (the same rows where there is but one), s_ij = u_i.v_j / temperature,
M_ij = [y_i = y_j] (j != i among the same rows) and c_i = sum_j M_ij, row i loses

    l_i = lse_j(s_ij) - (1 / c_i) sum_j M_ij s_ij        where c_i > 0, else 0

which is the cross-entropy of softmax_j(s_ij) to a target that is uniform over the positives (arXiv 2306.00984, eq.
1-3). The loss is the mean of l over a kind's rows of all ranks, and the mean of that over the kinds. Let n be the
rows of i's kind, m those of the keys', h_i = [c_i > 0], and eta, beta stand for h and c of the keys. A positive pair
has the same h, c, eta and beta as every other pair of its label, and so

    dL/du_i = 1 / (temperature * kinds * n) [ sum_j (h_i exp(s_ij - lse_i) + (n / m) eta_j exp(s_ij - lse_j)) v_j
                                              - (h_i / c_i + (n / m) eta / beta) sum_j M_ij v_j ]

where the sum of a row's positives is its label's total among the keys, so that no mask of pairs is ever made; the
rest is formed from lse alone. With one kind both terms of the sums are about the same rows: the formula holds with
n = m, eta = h and beta = c. An implementation supplies the two sums over all pairs, `PairKernels`.

1 / n stands outside the exponentials for the sake of float32: exp(s_ij - (lse_i + log n)) would be off by the rounding
of the same sum for every row that is like i, and what is off for all rows alike does not average out of the gradient in
the temperature.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from penstock.kernels.collectives import Side, gather_rows, gather_sides
from penstock.kernels.contrast_inputs import Rows, inverse, unit_rows, working_dtype

_SUMMED_COLUMNS = 64  # enough for long reads of memory, few enough for a small copy


class PairKernels(Protocol):
    """The two sums over all pairs of `queries [n, D]` and `keys [N, D]`, with s_ij = inverse_temperature q_i.k_j.

    `first` is the place of the first query among the keys where the queries are some of them: then no row meets
    itself. Otherwise None. Both sums are deterministic and form at most a part of the `[n, N]` similarities at a
    time.
    """

    def lse(self, queries: Tensor, keys: Tensor, inverse_temperature: Tensor, first: int | None) -> Tensor:
        """`[n]`: log sum_j exp(s_ij); -inf for a row that meets nobody."""

    def weighted_keys(
        self,
        queries: Tensor,
        keys: Tensor,
        query_shifts: Tensor,
        key_shifts: Tensor,
        inverse_temperature: Tensor,
        first: int | None,
    ) -> Tensor:
        """`[n, D]`: sum_j (exp(s_ij - query_shifts_i) + exp(s_ij - key_shifts_j)) k_j; a shift may be +inf.

        With `first` given, `query_shifts` must be the queries' part of `key_shifts`: an implementation may use that the
        weights are symmetric then.
        """


def contrast(
    kinds: Sequence[Rows],
    temperature: float | Tensor,
    group: ProcessGroup | None,
    kernels: PairKernels,
) -> Tensor:
    """The loss above of one or two kinds of rows, scalar, in float32, or float64 where all features have it.

    Gradients are world_size times those of the global mean. Two collectives beside that of the counts; none in
    backward. Raises ValueError where a kind has no row on any rank, and backward raises RuntimeError where it is asked
    for a graph of its own.
    """
    with torch.autocast(kinds[0].features.device.type, enabled=False):
        unit = unit_rows(kinds, working_dtype(kinds))
        labels, sizes = torch.cat([kind.labels for kind in kinds]), [len(kind.labels) for kind in kinds]
        sides, counts = gather_sides(unit.detach(), labels, sizes, group)
        check_not_empty(kinds, sides)
        apply: Callable[..., Tensor] = _Contrast.apply
        return apply(unit, inverse(temperature, unit), sides, counts, group, kernels)


def check_not_empty(kinds: Sequence[Rows], sides: Sequence[Side]) -> None:
    """Raises ValueError where a kind has no row on any rank."""
    for kind, side in zip(kinds, sides, strict=True):
        if len(side.rows) == 0:
            raise ValueError(f"{kind.name} must have at least one row on some rank, got none")


class _Contrast(torch.autograd.Function):
    """The loss of unit rows `[n, D]`, kind after kind; saves nothing larger than the rows themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        inverse_temperature: Tensor,
        sides: Sequence[Side],
        counts: Sequence[int],
        group: ProcessGroup | None,
        kernels: PairKernels,
    ) -> Tensor:
        positives = _positives(sides)
        lse, losses = [], []
        for side, facing, own in zip(sides, sides[::-1], positives, strict=True):
            first = side.first if side is facing else None
            mean_positive = (side.local * own.sums).sum(dim=1) * inverse_temperature / own.num_local.clamp(min=1)
            side_lse = kernels.lse(side.local, facing.rows, inverse_temperature, first)
            lse.append(side_lse)
            losses.append((side_lse - mean_positive).where(own.num_local > 0, 0.0) / (len(sides) * len(side.rows)))
        all_lse, all_losses = torch.cat(lse), torch.cat(losses)
        if group is not None:
            all_lse, all_losses = gather_rows([all_lse, all_losses], counts, group)

        saved = [unit, inverse_temperature]
        for side, own in zip(sides, positives, strict=True):
            # A row without positives loses nothing: exp(s_ij - inf) = 0. A lone row's lse is -inf.
            shifts = all_lse[side.places].where(own.has_any, torch.inf)
            saved += [side.rows, shifts, own.sums.mul_(own.pulls[:, None])]
        ctx.save_for_backward(*saved)
        ctx.sizes, ctx.firsts = [len(side.local) for side in sides], [side.first for side in sides]
        ctx.kernels, ctx.world_size = kernels, 1 if group is None else group.size()
        return all_losses.sum()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # torch's own once_differentiable lets a loss pass whose gradient is a constant, and the Hessian is wrong.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph must be False, as this backend's loss is once differentiable; use backend='reference'"
            )
        unit, inverse_temperature, *saved = ctx.saved_tensors
        rows, shifts, pulled = saved[::3], saved[1::3], saved[2::3]
        gradients = []
        with torch.autocast(unit.device.type, enabled=False):
            for side, queries in enumerate(unit.split(ctx.sizes)):
                first, facing = ctx.firsts[side], len(rows) - 1 - side
                num_rows, num_facing = len(rows[side]), len(rows[facing])
                gradient = ctx.kernels.weighted_keys(
                    queries,
                    rows[facing],
                    shifts[side][first : first + len(queries)],
                    shifts[facing] - math.log(num_rows / num_facing),  # log 1 = 0 with one kind
                    inverse_temperature,
                    first if side == facing else None,
                )
                gradients.append(gradient.sub_(pulled[side]).mul_(inverse_temperature / (len(rows) * num_rows)))
            grad_rows = gradients[0] if len(gradients) == 1 else torch.cat(gradients)
            # Each s_ij holds two rows, so sum <dL/du_i, u_i> counts every dL/ds_ij s_ij twice.
            grad_inverse = torch.linalg.vecdot(grad_rows, unit).sum() / (2 * inverse_temperature)
            scale = grad_loss * ctx.world_size
        return grad_rows.mul_(scale), grad_inverse * scale, None, None, None, None


@dataclass(frozen=True, slots=True)
class _Positives:
    """What the rows of a kind have in common with those that they are compared with."""

    num_local: Tensor
    """int64 `[n]`, c of this rank's rows."""
    sums: Tensor
    """`[n, D]`, the sum of the positives of each of this rank's rows."""
    has_any: Tensor
    """bool `[N]`, whether c > 0, of all rows."""
    pulls: Tensor
    """`[n]`, h / c + (n / m) eta / beta of this rank's rows; 0 without positives."""


def _positives(sides: Sequence[Side]) -> list[_Positives]:
    values, index = torch.cat([side.labels for side in sides]).unique(return_inverse=True)
    of_row = index.split([len(side.rows) for side in sides])
    num_of_label = [torch.bincount(labels, minlength=len(values)) for labels in of_row]
    itself = 1 if len(sides) == 1 else 0
    found = []
    for number, (side, labels, own) in enumerate(zip(sides, of_row, num_of_label, strict=True)):
        other = len(sides) - 1 - number
        facing, theirs = sides[other], num_of_label[other]
        here = labels[side.of_this_rank]
        sums = _sum_by_label(facing.rows, of_row[other], theirs)[here]
        if itself:
            sums -= side.local
        num_local, num_theirs = theirs[here] - itself, (own[here] - itself).to(sums.dtype)
        pulls = 1 / num_local.to(sums.dtype) + len(side.rows) / len(facing.rows) / num_theirs
        found.append(
            _Positives(
                num_local,
                sums,
                has_any=theirs[labels] > itself,
                pulls=pulls.where(num_local > 0, 0.0),
            )
        )
    return found


def _sum_by_label(rows: Tensor, labels: Tensor, num_of_label: Tensor) -> Tensor:
    """`[L, D]` sums of the `[N, D]` rows of each of L labels, `labels` int64 `[N]` in 0 .. L - 1.

    Sorted segments rather than `index_add_`, whose atomics would make the sum's order a matter of luck on a GPU. In
    float64, as a segment is summed one row after another: of a label of thousands float32 would lose the last digits.
    A few columns at a time, so that no float64 copy of all rows is held.
    """
    order = labels.argsort(stable=True)
    sums = [
        torch.segment_reduce(columns[order].double(), "sum", lengths=num_of_label, axis=0).to(rows.dtype)
        for columns in rows.split(_SUMMED_COLUMNS, dim=1)
    ]
    return torch.cat(sums, dim=1)
