"""Runs the augmentation's kernels in Triton's interpreter: `test_augment_triton.py` starts it, as the mode is chosen
before triton is imported. Prints a line of JSON: the largest difference from the reference in every case.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
import sys
from dataclasses import replace

import torch

from penstock.kernels.augment import AugmentRecipe, augment, draw_params

STRONG, WEAK = AugmentRecipe.strong(24), AugmentRecipe.weak(25)
RESIZED = replace(STRONG, size=25, downsample_probability=0.5, downsample_sizes=(9, 16))
CASES = {
    "strong": (STRONG, 16, 40, 40),
    "strong, larger": (replace(STRONG, size=30), 8, 20, 17),
    "strong, smaller by 4": (replace(STRONG, size=12, blur_kernel_size=5), 6, 50, 20),
    "downsample and odd sides": (RESIZED, 12, 31, 40),
    "weak": (WEAK, 4, 33, 32),
    "one sample": (STRONG, 1, 24, 24),
    "everything blurred": (replace(STRONG, blur_probability=1.0), 4, 32, 32),
    "everything downsampled": (replace(RESIZED, downsample_probability=1.0), 3, 31, 40),
    "contrast alone": (replace(STRONG, brightness=0.0, saturation=0.0, hue=0.0, jitter_probability=1.0), 4, 32, 32),
}


def main() -> None:
    """Every case once."""
    torch.set_num_threads(1)
    differences = {}
    for name, (recipe, num, height, width) in CASES.items():
        images = torch.randint(
            0, 256, (num, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        params = draw_params(recipe, 3, torch.arange(num), 0, 0, height, width)
        reference, view = (augment(images, params, backend=backend) for backend in ("reference", "triton"))
        differences[name] = (reference - view).abs().max().item()
    sys.stdout.write(json.dumps(differences))


if __name__ == "__main__":
    main()
