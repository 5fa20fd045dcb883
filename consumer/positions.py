"""Initial position embeddings that already know the grid: two-dimensional sines and cosines.

A small encoder with few steps does not find out by itself which patches are neighbours; from random embeddings it
idles for hundreds of steps (MoCo v3, arXiv 2104.02057, and "Better plain ViT baselines", arXiv 2205.01580, start
from such grids too). They are only the start: training moves them.
"""

import math

import torch
from torch import Tensor
from transformers import ViTModel

_SCALE = 0.5
"""Amplitude, about that of the patch embeddings at initialisation."""
_LONGEST = 100.0
"""Ratio of the longest wavelength to the shortest, which is the width of the image."""


def sincos_grid(grid_size: int, hidden_size: int) -> Tensor:
    """Float32 [grid_size², hidden_size]: a quarter each of sin and cos of the column, sin and cos of the row.

    Raises ValueError where `hidden_size` is not a multiple of 4.
    """
    if hidden_size % 4:
        raise ValueError(f"hidden_size must be a multiple of 4 for sine-cosine positions, got {hidden_size}")
    quarter = hidden_size // 4
    frequencies = 2 * math.pi / grid_size * _LONGEST ** -(torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(grid_size), torch.arange(grid_size), indexing="ij")
    across, down = columns.reshape(-1, 1) * frequencies, rows.reshape(-1, 1) * frequencies
    return _SCALE * torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)


@torch.no_grad()
def start_from_sincos(encoder: ViTModel) -> None:
    """Overwrite the patches' position embeddings by `sincos_grid`; the class token's stays."""
    config = encoder.config
    positions = encoder.embeddings.position_embeddings
    positions[0, 1:] = sincos_grid(config.image_size // config.patch_size, config.hidden_size)
