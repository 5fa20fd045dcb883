"""Classifier-free guidance, row by row: each image has its own weight, rescaling and interval of steps.

With the prediction ε_c for the prompt and ε_u for the empty prompt (Ho & Salimans, arXiv 2207.12598), a guided row gets
ε = ε_u + w·(ε_c - ε_u). Rescaled by φ (arXiv 2305.08891, equations 15 and 16) it becomes φ·ε·σ(ε_c)/σ(ε) + (1 - φ)·ε.
Early and late steps may go without guidance (limited interval, arXiv 2404.07724): they cost one call of the denoiser,
not two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from penstock.protocol.tickets import Recipe


@dataclass(frozen=True, slots=True)
class Guidance:
    """How the steps of one image are guided."""

    scale: float
    """w; 1 or less is none, as in diffusers."""
    rescale: float = 0.0
    """φ in [0, 1]; 0 is none."""
    start: float = 0.0
    """Share of the steps before the first guided one."""
    stop: float = 1.0
    """Share of the steps after which none is guided."""

    @classmethod
    def of(cls, recipe: Recipe) -> list[Self]:
        """What a recipe asks for, image by image."""
        rest = (recipe.guidance_rescale, recipe.guidance_start, recipe.guidance_stop)
        return [cls(scale, *rest) for scale in recipe.image_scales]

    def acts(self, step: int, num_steps: int) -> bool:
        """Whether step `step` of `num_steps`, counted from 0, is guided."""
        return self.scale > 1 and self.start <= step / num_steps < self.stop


class GuidedRows:
    """Mixes the predictions of rows with and without their prompts.

    Args:
        rows: the guidance of each.
        device: where the predictions are.
    """

    def __init__(self, rows: Sequence[Guidance], device: torch.device) -> None:
        self._rows = rows
        self._scales = torch.tensor([row.scale for row in rows], device=device).view(-1, 1, 1, 1)

    def mix(self, with_prompt: Tensor, without: Tensor) -> Tensor:
        """ε, float32 [n, C, h, w], from ε_c and ε_u of the same shape."""
        mixed = without + self._scales * (with_prompt - without)
        for number, row in enumerate(self._rows):
            if row.rescale:
                # One row at a time: a sum over another number of rows may end in other bits.
                rescaled = mixed[number] * (with_prompt[number].std() / mixed[number].std())
                mixed[number] = row.rescale * rescaled + (1 - row.rescale) * mixed[number]
        return mixed
