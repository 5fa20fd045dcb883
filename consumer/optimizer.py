"""AdamW and its learning rate by the rules of StableRep's published code.

Weight decay spares biases and every parameter of fewer than two dimensions, such as the scales of norms. It
takes the CLS token and the position embeddings, which have three dimensions, as the reference does.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_REFERENCE_IMAGES = 512


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's parameter groups: what weight decay shrinks, and what it spares. No frozen parameters."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_spared = parameter.ndim < 2 or name.endswith("bias")
            (spared if is_spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def build_optimizer(
    model: nn.Module, *, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.98)
) -> torch.optim.AdamW:
    """AdamW over `decay_groups`, with a learning rate of 0 until `CosineSchedule.apply` sets one.

    It is the fused one, which leaves everything as it is where its `found_inf` is 1.
    """
    return torch.optim.AdamW(decay_groups(model, weight_decay), lr=0.0, betas=betas, fused=True)


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
        """Sets the rate of every group before the update numbered `step`, and returns it."""
        lr = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        return lr
