"""Projection heads: StableRep's, with BatchNorm whose statistics are taken per view and over all ranks, and SynCLR's.

A batch is groups of m images, the images of one prompt side by side: `[G * m, C]`. The k-th images of all
groups form view k, and each view is normalised by its own mean and variance over the G groups of every rank.
An image is thus never normalised by statistics that hold another image of its group, as in the published
code.

With xhat = (x - mean) / std, n rows in a view over all ranks, and dy from above (Ioffe and Szegedy, 2015),

    dx = weight / std * (dy - sum(dy) / n - xhat * sum(dy * xhat) / n)

where the sums run over all ranks. Forward makes two small collectives, so that the variance is taken about
the common mean; backward makes one.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from penstock.kernels.collectives import default_group


class LayerNormHead(nn.Module):
    """SynCLR's head: Linear, LayerNorm, GELU, as often as there are hidden layers, and a Linear without bias.

    From google-research/syn-rep-learn, SynCLR/train_pytorch/models/head.py. Rows do not know of each other.

    Args:
        in_dim, hidden_dim, out_dim: widths.
        num_layers: of the Linears: 3 for the projector, 2 for the predictor.
        norm_output: a LayerNorm without weights behind the last layer.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, *, num_layers: int = 3, norm_output: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in range(num_layers - 1):
            layers += [nn.Linear(hidden_dim if layer else in_dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.GELU()]
        layers.append(nn.Linear(hidden_dim, out_dim, bias=False))
        layers += [nn.LayerNorm(out_dim, elementwise_affine=False)] if norm_output else []
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, num_views: int) -> Tensor:
        """`[n, in_dim]` to `[n, out_dim]`; `num_views` changes nothing."""
        projected: Tensor = self.layers(features)
        return projected


class ProjectionHead(nn.Module):
    """StableRep's head: Linear, BatchNorm, ReLU, as often as there are hidden layers, and a Linear.

    BatchNorm takes its statistics view by view (see `ViewBatchNorm`) and over all ranks.

    Args:
        in_dim, hidden_dim, out_dim: widths.
        num_layers: of the Linears; StableRep's are 3.
        norm_output: a further BatchNorm behind the last layer, as in MoCo v3's head (arXiv 2104.02057). StableRep has
            none; with it a narrow encoder leaves the loss of a constant output at once, not after hundreds of steps.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, *, num_layers: int = 3, norm_output: bool = False
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        # The names are the reference's.
        for number, (wide, narrow) in enumerate(pairwise(widths), start=1):
            has_norm = number < num_layers or norm_output
            self.add_module(f"layer{number}", nn.Linear(wide, narrow))
            self.add_module(f"bn{number}", ViewBatchNorm(narrow) if has_norm else None)

    def forward(self, features: Tensor, num_views: int) -> Tensor:
        """`[groups * num_views, in_dim]`, group after group, to `[groups * num_views, out_dim]`."""
        rows = features
        for number in range(1, self.num_layers + 1):
            rows = getattr(self, f"layer{number}")(rows)
            if (norm := getattr(self, f"bn{number}")) is not None:
                rows = norm(rows, num_views)
            if number < self.num_layers:
                rows = F.relu(rows)
        return rows


Head = ProjectionHead | LayerNormHead
"""What projects features into the space of a loss."""


class ViewBatchNorm(nn.Module):
    """BatchNorm over `[G * m, C]`, by view, synchronised over the default process group if there is one.

    Ranks may hold different numbers of groups. Every rank keeps the same running statistics, updated once for
    each view in turn, and evaluation uses them. Statistics are float32 (float64 for float64 input) whatever
    autocast says. Gradients of weight and bias are this rank's share, as DistributedDataParallel expects.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        """`[G * num_views, C]`, group after group, to the same shape and dtype.

        Raises:
            ValueError: rows that are not whole groups; training alone with fewer than two groups.
        """
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if num_views < 1 or len(x) % num_views:
            raise ValueError(f"rows must be whole groups of num_views, got {len(x)} rows and num_views {num_views}")
        group = default_group()
        if group is None and len(x) < 2 * num_views:
            raise ValueError(f"BatchNorm needs at least 2 groups in training, got {len(x) // num_views}")
        wide = x if x.dtype == torch.float64 else x.float()
        apply: Callable[..., tuple[Tensor, ...]] = _ViewBatchNorm.apply
        output, mean, var, count = apply(
            wide.reshape(-1, num_views, wide.shape[1]), self.weight, self.bias, self.eps, group
        )
        self._update_running_statistics(mean, var, count)
        normalised: Tensor = output.reshape(x.shape).to(x.dtype)
        return normalised

    @torch.no_grad()
    def _update_running_statistics(self, means: Tensor, variances: Tensor, count: Tensor) -> None:
        """`means` and `variances` are `[m, C]`, of `count` rows each."""
        unbiased = variances * (count / (count - 1).clamp(min=1))
        for mean, variance in zip(means, unbiased, strict=True):
            # What is no number would stay in them for ever, though the step that met it is skipped.
            self.running_mean.lerp_(_finite_or(mean, self.running_mean), self.momentum)
            self.running_var.lerp_(_finite_or(variance, self.running_var), self.momentum)


class _ViewBatchNorm(torch.autograd.Function):
    """`[G, m, C]` to the same normalised, and mean `[m, C]`, variance `[m, C]`, count of the global batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num_groups, num_views, num_features = x.shape
        sums = torch.cat([x.sum(dim=0).flatten(), x.new_tensor([num_groups])])
        sums = _all_reduce(sums, group)
        count = sums[-1]
        mean = sums[:-1].view(num_views, num_features) / count
        centred = x - mean
        var = _all_reduce(centred.square().sum(dim=0), group) / count
        inverse_std = (var + eps).rsqrt()
        xhat = centred.mul_(inverse_std)
        ctx.save_for_backward(xhat, weight, inverse_std, count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, var, count)
        return xhat * weight + bias, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        xhat, weight, inverse_std, count = ctx.saved_tensors
        local_sums = torch.stack([grad.sum(dim=0), (grad * xhat).sum(dim=0)])
        grad_bias, grad_weight = local_sums.sum(dim=1)
        mean_grad, mean_grad_xhat = _all_reduce(local_sums, ctx.group) / count
        grad_x = (grad - mean_grad - xhat * mean_grad_xhat).mul_(weight * inverse_std)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None


def _finite_or(new: Tensor, old: Tensor) -> Tensor:
    return torch.where(new.isfinite(), new.to(old.dtype), old)


def _all_reduce(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over the ranks; `tensor` itself, untouched, where this process is alone."""
    if group is None:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total, group=group)
    return total
