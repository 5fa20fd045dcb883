"""What an augmentation does, as plain numbers. Free of torch, so that a configuration can hold one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentRecipe:
    """Downsample, crop, colour jitter, greyscale, blur, flip, normalise: the chain of StableRep's published code.

    The defaults are the strong recipe at 224, without the downsample, which is an option there too
    (google-research/syn-rep-learn, StableRep/main_stablerep.py and StableRep/dataset/util.py). Probabilities
    lie in 0 .. 1; 0 switches a step off.
    """

    size: int = 224
    """Side of the output in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the area; (1, 1) with crop_ratio (1, 1) keeps a square image whole."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, drawn evenly in the logarithm."""
    jitter_probability: float = 0.8
    """Share of the samples whose colours are jittered."""
    brightness: float = 0.4
    """Factor from max(0, 1 - b) to 1 + b; the same holds for contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    """Largest turn of the hue in either direction, in full circles, at most 0.5."""
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the Gaussian's standard deviation in output pixels; 2 pixels of 224 are little, of 32 much."""
    blur_kernel_size: int = 23
    """Taps of the Gaussian, odd; 23 holds more than 5 sigma at sigma 2. StableRep's code calls PIL's GaussianBlur,
    which approximates the Gaussian by repeated box means; this is the Gaussian itself."""
    flip_probability: float = 0.5
    """Share mirrored left to right; 0 where the side matters, as in handwriting."""
    downsample_probability: float = 0.0
    """Share resized to one of `downsample_sizes` and back before the crop; 0.05 in the reference's README."""
    downsample_sizes: tuple[int, ...] = (64, 128)
    """Shorter sides in pixels, equally likely, each smaller than the images'. The way back ends at the image's
    own size, which in the reference is always 256."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel in 0 .. 1, before division by `std`."""
    std: tuple[float, float, float] = IMAGENET_STD

    @classmethod
    def strong(cls, size: int = 224) -> Self:
        """StableRep's recipe for contrastive training, which is SimCLR's with weaker colour jitter."""
        return cls(size=size)

    @classmethod
    def weak(cls, size: int = 224) -> Self:
        """StableRep's weak recipe: a crop of at least half the area and nothing else."""
        return cls(
            size=size,
            crop_scale=(0.5, 1.0),
            jitter_probability=0.0,
            grayscale_probability=0.0,
            blur_probability=0.0,
            flip_probability=0.0,
        )

    def __post_init__(self) -> None:
        if not _is_int(self.size) or self.size < 1:
            raise ValueError(f"size must be an int >= 1, got {self.size}")
        for step in ("jitter", "grayscale", "blur", "flip", "downsample"):
            _require_between(f"{step}_probability", getattr(self, f"{step}_probability"), 0.0, 1.0)
        if not self.downsample_sizes or not all(_is_int(side) and side >= 1 for side in self.downsample_sizes):
            raise ValueError(f"downsample_sizes must be some ints >= 1, got {self.downsample_sizes}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}")
        _require_between("hue", self.hue, 0.0, 0.5)
        for name, highest in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            _require_range(name, getattr(self, name), highest)
        if not _is_int(self.blur_kernel_size) or self.blur_kernel_size < 1 or self.blur_kernel_size % 2 == 0:
            raise ValueError(f"blur_kernel_size must be an odd int >= 1, got {self.blur_kernel_size}")
        if self.blur_probability > 0 and self.blur_kernel_size // 2 >= self.size:
            raise ValueError(
                f"blur_kernel_size must be < 2 * size ({2 * self.size}), as edges are mirrored once, "
                f"got {self.blur_kernel_size}"
            )
        for name, rule, low in (("mean", "finite numbers", -math.inf), ("std", "finite numbers > 0", 0.0)):
            values = getattr(self, name)
            if len(values) != 3 or not all(low < value < math.inf for value in values):
                raise ValueError(f"{name} must hold three {rule}, got {values}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in {low:g} .. {high:g}, got {value}")


def _require_range(name: str, values: Sequence[float], highest: float) -> None:
    """`highest` itself is allowed where it is finite."""
    if len(values) != 2 or not (0 < values[0] <= values[1] <= highest and values[1] < math.inf):
        limit = f"<= {highest:g}" if highest < math.inf else "< inf"
        raise ValueError(f"{name} must hold 0 < low <= high {limit}, got {tuple(values)}")
