"""AdamW and its learning rate by the rules of StableRep's published code.

Weight decay spares biases and every parameter of fewer than two dimensions, such as the scales of norms. It
takes the CLS token and the position embeddings, which have three dimensions, as the reference does.

Layers may learn the slower the further they lie from a tower's end, as in BEiT (arXiv 2106.08254), for towers that have
learnt something before.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

_REFERENCE_IMAGES = 512

_BLOCK = re.compile(r"(?:text_model\.|timm_model\.)?(?:encoder\.)?(?:layers?|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:text_model\.|timm_model\.)?(?:embeddings|patch_embed|cls_token|reg_token|pos_embed)\b")
"""What the towers of `transformers` and of timm call their parts."""


def decay_groups(model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """AdamW's parameter groups: what weight decay shrinks, and what it spares. No frozen parameters.

    Args:
        model: its towers are the `transformers` models in it.
        weight_decay: of the groups that it shrinks.
        layer_decay: below 1 there are two groups for each depth, full rate first, each with an `lr_scale`: of n blocks
            in a tower block i, counted from 0, learns at layer_decay ** (n - i) of the rate, the embeddings at
            layer_decay ** (n + 1), and what stands behind the blocks, or in no tower, at the full rate.

    Raises:
        ValueError: a layer_decay below 1 where a tower has no blocks.
    """
    scales = {} if layer_decay == 1 else _layer_scales(model, layer_decay)
    by_scale: dict[float, tuple[list[nn.Parameter], list[nn.Parameter]]] = {1.0: ([], [])}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_spared = parameter.ndim < 2 or name.endswith("bias")
            by_scale.setdefault(scales.get(parameter, 1.0), ([], []))[is_spared].append(parameter)
    groups: list[dict[str, Any]] = []
    for scale, (decayed, spared) in sorted(by_scale.items(), reverse=True):
        # Without layers the groups look as ever: checkpoints hold them.
        rate = {"lr_scale": scale} if scales else {}
        groups.append({"params": decayed, "weight_decay": weight_decay, **rate})
        groups.append({"params": spared, "weight_decay": 0.0, **rate})
    return groups


def _layer_scales(model: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """The share of the rate at which embeddings and blocks learn."""
    scales: dict[nn.Parameter, float] = {}
    for tower in model.modules():
        if not isinstance(tower, PreTrainedModel):
            continue
        depths = {parameter: _depth(name) for name, parameter in tower.named_parameters()}
        num_layers = max((depth for depth in depths.values() if depth is not None), default=0)
        if num_layers == 0:
            raise ValueError(f"layer_decay must be 1 for a tower without blocks, got {layer_decay}")
        for parameter, depth in depths.items():
            if depth is not None:
                scales[parameter] = layer_decay ** (num_layers + 1 - depth)
    return scales


def _depth(name: str) -> int | None:
    """0 for a tower's embeddings, i + 1 for its block i, None for what stands behind."""
    if block := _BLOCK.match(name):
        return int(block[1]) + 1
    return 0 if _EMBEDDING.match(name) else None


def build_optimizer(
    model: nn.Module,
    *,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.98),
    layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over `decay_groups`, with a learning rate of 0 until `CosineSchedule.apply` sets one.

    It is the fused one, which leaves everything as it is where its `found_inf` is 1.
    """
    groups = decay_groups(model, weight_decay, layer_decay=layer_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class CosineSchedule:
    """Learning rate as a pure function of the step: linear warm-up from 0, then half a cosine to `min_lr`.

    It has no state, so a resumed run needs only its step, and no launcher can step it once for every rank.
    """

    base_lr: float
    """Learning rate for 512 images a step; the peak is base_lr * images_per_step / 512."""
    images_per_step: int
    """Images that all ranks together train on in one optimizer step."""
    warmup_steps: int
    max_steps: int
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.images_per_step < 1:
            raise ValueError(f"images_per_step must be >= 1, got {self.images_per_step}")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(
                f"warmup_steps must lie in 0 .. max_steps - 1, got {self.warmup_steps} of {self.max_steps}"
            )

    @property
    def peak_lr(self) -> float:
        """The rate at the end of the warm-up."""
        return self.base_lr * self.images_per_step / _REFERENCE_IMAGES

    def at(self, step: int) -> float:
        """The learning rate of the update numbered `step`, counted from 0; `min_lr` from `max_steps` on."""
        if step < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / (self.max_steps - self.warmup_steps))
        return self.min_lr + (self.peak_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Sets every group's rate, times its `lr_scale`, before the update numbered `step`; returns the full one."""
        lr = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr
