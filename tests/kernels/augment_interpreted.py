"""Runs the augmentation's kernels in Triton's interpreter: `test_augment_triton.py` starts it, as the mode is chosen
before triton is imported. Prints a line of JSON: the largest difference in every case from the reference, from the
whole batch for a sample alone, and from torchvision in every group of its views.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
import sys
from dataclasses import replace

import torch

from penstock.kernels.augment import AugmentRecipe, augment, draw_params, prepare
from tests.kernels.goldens import SMALL, golden

STRONG, WEAK = AugmentRecipe.strong(24), AugmentRecipe.weak(25)
RESIZED = replace(STRONG, size=25, downsample_probability=0.5, downsample_sizes=(9, 16))
CASES = {
    "strong": (STRONG, 16, 40, 40),
    "strong, larger": (replace(STRONG, size=30), 8, 20, 17),
    "strong, smaller by 4": (replace(STRONG, size=12, blur_kernel_size=5), 6, 50, 20),
    "smaller by 16": (replace(STRONG, size=8, blur_kernel_size=5), 2, 128, 120),
    "downsample and odd sides": (RESIZED, 12, 31, 40),
    "weak": (WEAK, 4, 33, 32),
    "one sample": (STRONG, 1, 24, 24),
    "everything blurred": (replace(STRONG, blur_probability=1.0), 4, 32, 32),
    "everything downsampled": (replace(RESIZED, downsample_probability=1.0), 3, 31, 40),
    "contrast alone": (replace(STRONG, brightness=0.0, saturation=0.0, hue=0.0, jitter_probability=1.0), 4, 32, 32),
}


def noise(num: int, height: int, width: int) -> torch.Tensor:
    shape, generator = (num, height, width, 3), torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def prepared() -> float:
    reference, views = (prepare(noise(2, 40, 31), WEAK, backend=backend) for backend in ("reference", "triton"))
    return (reference - views).abs().max().item()


def alone() -> float:
    """A sample's bits must not depend on its neighbours: times 1e9, so that no difference passes for small."""
    images, params = noise(8, 31, 40), draw_params(RESIZED, 3, torch.arange(8), 0, 0, 31, 40)
    whole = augment(images, params, backend="triton")
    one_by_one = [
        augment(images[sample : sample + 1], params.of(slice(sample, sample + 1)), backend="triton")
        for sample in range(8)
    ]
    return 1e9 * (whole - torch.cat(one_by_one)).abs().max().item()


def main() -> None:
    """Every case once."""
    torch.set_num_threads(1)
    differences = {"prepare": prepared(), "alone": alone()}
    for group in SMALL:
        images, params, expected = golden(group)
        differences[f"torchvision, {group}"] = (augment(images, params, backend="triton") - expected).abs().max().item()
    for name, (recipe, num, height, width) in CASES.items():
        images = noise(num, height, width)
        params = draw_params(recipe, 3, torch.arange(num), 0, 0, height, width)
        reference, view = (augment(images, params, backend=backend) for backend in ("reference", "triton"))
        differences[name] = (reference - view).abs().max().item()
    sys.stdout.write(json.dumps(differences))


if __name__ == "__main__":
    main()
