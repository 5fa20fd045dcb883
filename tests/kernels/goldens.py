"""What torchvision v2 made of images, as `make_goldens.py` left it in `augment_goldens.npz`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from penstock.kernels.augment import AugmentParams, AugmentRecipe

ARRAYS = np.load(Path(__file__).with_name("augment_goldens.npz"), allow_pickle=False)
SMALL = {
    "crop_and_resize": 7,
    "jitter_alone": 9,
    "jitter_in_every_order": 24,
    "grayscale": 1,
    "blur": 5,
    "flip": 2,
    "downsample": 3,
    "chain": 7,
}
"""Number of cases of each group from 40 x 48 to 16 x 16."""
NUM_FULL_SIZE = 8
"""Of the group `full_size`, from 256 x 256 to 224 x 224, of which `STRIDE` keeps some pixels."""
STRIDE = 9


class Golden(NamedTuple):
    images: Tensor
    params: AugmentParams
    expected: Tensor


def golden(group: str) -> Golden:
    """Images, parameters and torchvision's views of a group."""
    arrays = {name.partition("/")[2]: ARRAYS[name] for name in ARRAYS.files if name.startswith(f"{group}/")}
    arrays.pop("float32_error", None)
    images = torch.from_numpy(ARRAYS["full_size_images" if group == "full_size" else "images"][arrays.pop("image")])
    expected = torch.from_numpy(arrays.pop("expected"))
    plain = {} if group in ("chain", "full_size") else {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    recipe = AugmentRecipe(size=224 if group == "full_size" else expected.shape[-1], **plain)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in ("color_factors", "blur_sigma"):
        tensors[name] = tensors[name].float()
    _, height, width, _ = images.shape
    return Golden(images, AugmentParams(recipe=recipe, height=height, width=width, **tensors), expected)
