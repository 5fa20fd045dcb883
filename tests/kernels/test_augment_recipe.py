"""What a recipe refuses."""

import math
from dataclasses import replace

import pytest

from penstock.kernels.augment_recipe import AugmentRecipe

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be an int >= 1, got 0"),
        ({"flip_probability": 1.5}, r"flip_probability must lie in 0 \.\. 1, got 1.5"),
        ({"hue": 0.6}, r"hue must lie in 0 \.\. 0.5, got 0.6"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must hold 0 < low <= high <= 1"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must hold 0"),
        ({"blur_kernel_size": 4}, "blur_kernel_size must be an odd int >= 1, got 4"),
        (
            {"size": 11},
            r"blur_kernel_size must be < 2 \* size \(22\), as edges are mirrored once, got 23",
        ),
        ({"downsample_probability": -0.1}, r"downsample_probability must lie in 0 \.\. 1, got -0.1"),
        ({"downsample_sizes": ()}, r"downsample_sizes must be some ints >= 1, got \(\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std must hold three finite numbers > 0, got \(1.0, 0.0, 1.0\)"),
        ({"std": (1.0, 1.0)}, r"std must hold three finite numbers > 0, got \(1.0, 1.0\)"),
        ({"std": (1.0, NAN, 1.0)}, "std must hold three finite numbers > 0"),
        ({"std": (1.0, INF, 1.0)}, "std must hold three finite numbers > 0"),
        ({"mean": (0.5,) * 4}, "mean must hold three finite numbers, got"),
        ({"mean": (0.5, 0.5, NAN)}, "mean must hold three finite numbers, got"),
        ({"mean": (0.5, -INF, 0.5)}, "mean must hold three finite numbers, got"),
        ({"brightness": INF}, "brightness must be >= 0 and finite, got inf"),
        ({"contrast": NAN}, "contrast must be >= 0 and finite, got nan"),
        ({"saturation": -0.1}, "saturation must be >= 0 and finite, got -0.1"),
        ({"hue": NAN}, r"hue must lie in 0 \.\. 0.5, got nan"),
        ({"blur_probability": NAN}, r"blur_probability must lie in 0 \.\. 1, got nan"),
        ({"crop_ratio": (0.5, INF)}, r"crop_ratio must hold 0 < low <= high < inf, got \(0.5, inf\)"),
        ({"crop_ratio": (0.5, 1.0, 2.0)}, r"crop_ratio must hold 0 < low <= high < inf, got \(0.5, 1.0, 2.0\)"),
        ({"crop_scale": (NAN, 1.0)}, "crop_scale must hold 0 < low <= high <= 1, got"),
        ({"blur_sigma": (0.1, INF)}, r"blur_sigma must hold 0 < low <= high < inf, got \(0.1, inf\)"),
        ({"blur_sigma": (INF, INF)}, "blur_sigma must hold 0 < low <= high < inf"),
        ({"size": NAN}, "size must be an int >= 1, got nan"),
        ({"size": 32.5}, "size must be an int >= 1, got 32.5"),
        ({"blur_kernel_size": 5.0}, "blur_kernel_size must be an odd int >= 1, got 5.0"),
        ({"downsample_sizes": (64.5,)}, "downsample_sizes must be some ints >= 1"),
    ],
)
def test_recipe_rejects_values_outside_their_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(AugmentRecipe.strong(), **change)
