"""A recipe's chain by kornia's batched modules: the side that `benchmarks/augment.py` and `gpu.py` compare with."""

import kornia.augmentation as K
import torch
from torch import nn

from penstock.kernels.augment_recipe import AugmentRecipe


def chain(recipe: AugmentRecipe) -> nn.Module:
    """Float `[B, 3, H, W]` in 0 .. 1 to normalised `[B, 3, S, S]`.

    Every sample has its own parameters but one: kornia draws the order of the jitter's steps once a batch. Leaves out
    what the comparison leaves out: antialiasing, which kornia's crop lacks, and the downsample.
    """
    blur_size = (recipe.blur_kernel_size, recipe.blur_kernel_size)
    jitter = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    return nn.Sequential(
        K.RandomResizedCrop((recipe.size, recipe.size), scale=recipe.crop_scale, ratio=recipe.crop_ratio),
        K.ColorJitter(*jitter, p=recipe.jitter_probability),
        K.RandomGrayscale(p=recipe.grayscale_probability),
        K.RandomGaussianBlur(blur_size, recipe.blur_sigma, p=recipe.blur_probability),
        K.RandomHorizontalFlip(p=recipe.flip_probability),
        K.Normalize(torch.tensor(recipe.mean), torch.tensor(recipe.std)),
    )
