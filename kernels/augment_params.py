"""The random numbers of an augmentation, drawn apart from the pixels so that a view can be made again.

Each sample's numbers come from Philox4x32-10 with the run's seed as key and (sample id, echo, view) as
counter, so they depend neither on rank nor on the place in the batch. They are drawn on the host in float64,
whatever device the images are on. The distributions are torchvision's (`RandomResizedCrop.get_params`,
`ColorJitter.get_params`).
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.kernels.philox import philox4x32, to_uniform, words_of

CONTRAST, SATURATION, HUE = 1, 2, 3
"""Steps of the colour jitter, as `color_order` and the columns of `color_factors` number them; 0 is brightness."""

# Columns of a sample's uniform numbers. Runs are replayed from them: new draws go to the end, none ever
# moves.
_AREA = slice(0, 10)
_RATIO = slice(10, 20)
_TOP, _LEFT, _JITTER = 20, 21, 22
_FACTORS = slice(23, 27)
_ORDER = slice(27, 31)
_GRAYSCALE, _BLUR, _SIGMA, _FLIP, _DOWNSAMPLE = 31, 32, 33, 34, 35
_NUM_BLOCKS = 9
_BLOCK_BITS, _VIEW_BITS = 8, 24

_NEUTRAL = (1.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class AugmentParams:
    """What `augment` does to each of B samples. All tensors are `[B]` on the host unless said otherwise."""

    recipe: AugmentRecipe
    height: int
    """Of the images that the parameters are for, in pixels."""
    width: int
    """The same."""
    top: Tensor
    """int64, first row of the crop."""
    left: Tensor
    """int64, first column of the crop."""
    crop_height: Tensor
    """int64, rows of the crop."""
    crop_width: Tensor
    """int64, columns of the crop."""
    color_factors: Tensor
    """float32 `[B, 4]`: brightness, contrast, saturation (neutral at 1), turn of hue (neutral at 0)."""
    color_order: Tensor
    """int64 `[B, 4]`: indices into `color_factors` in the order of their use."""
    grayscale: Tensor
    """bool."""
    blur_sigma: Tensor
    """float32, in output pixels; 0 for no blur."""
    flip: Tensor
    """bool."""
    downsample: Tensor
    """int64, the shorter side to which the whole image is resized before it is resized back; 0 for neither."""

    def __len__(self) -> int:
        return len(self.flip)

    def of(self, samples: slice | Tensor) -> Self:
        """The parameters of some of the samples: a slice, their int64 indices or a bool for each."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value[samples] for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **values | chosen)


def draw_params(
    recipe: AugmentRecipe,
    run_seed: int,
    sample_ids: Tensor,
    echoes: Tensor | int,
    views: Tensor | int,
    height: int,
    width: int,
) -> AugmentParams:
    """Parameters for one view of each sample, a pure function of the arguments.

    Args:
        recipe: what the distributions are.
        run_seed: 0 .. 2**64 - 1.
        sample_ids: int64 `[B]`, any values; names an image through the whole run.
        echoes: int64 `[B]` or one number, 0 .. 2**32 - 1; how often the image was used before.
        views: int64 `[B]` or one number, 0 .. 2**24 - 1; which of several crops of one use.
        height, width: of the images to be augmented.

    Raises:
        TypeError: a number that is no int.
        ValueError: a value outside its range, a tensor that is not int64 `[B]`, or a downsample that would not
            make the images smaller.
    """
    for name, side in (("height", height), ("width", width)):
        _require_int(name, side)
        if side < 1:
            raise ValueError(f"{name} must be >= 1, got {side}")
    uniform = _uniform(run_seed, sample_ids, echoes, views)
    top, left, crop_height, crop_width = _draw_crop(recipe, uniform, height, width)
    factors, order = _draw_color(recipe, uniform)
    low, high = recipe.blur_sigma
    sigma = low + (high - low) * uniform[:, _SIGMA]
    return AugmentParams(
        recipe=recipe,
        height=height,
        width=width,
        top=top,
        left=left,
        crop_height=crop_height,
        crop_width=crop_width,
        color_factors=factors,
        color_order=order,
        grayscale=uniform[:, _GRAYSCALE] < recipe.grayscale_probability,
        blur_sigma=sigma.where(uniform[:, _BLUR] < recipe.blur_probability, 0.0).float(),
        flip=uniform[:, _FLIP] < recipe.flip_probability,
        downsample=_draw_downsample(recipe, uniform[:, _DOWNSAMPLE], min(height, width)),
    )


def whole_images(recipe: AugmentRecipe, num_samples: int, height: int, width: int) -> AugmentParams:
    """Parameters by which each image is resized as a whole and normalised, and nothing else."""
    zeros = torch.zeros(num_samples, dtype=torch.int64)
    return AugmentParams(
        recipe=recipe,
        height=height,
        width=width,
        top=zeros,
        left=zeros,
        crop_height=zeros + height,
        crop_width=zeros + width,
        color_factors=torch.tensor(_NEUTRAL, dtype=torch.float32).repeat(num_samples, 1),
        color_order=torch.arange(4).repeat(num_samples, 1),
        grayscale=zeros.bool(),
        blur_sigma=zeros.float(),
        flip=zeros.bool(),
        downsample=zeros,
    )


def _uniform(run_seed: int, sample_ids: Tensor, echoes: Tensor | int, views: Tensor | int) -> Tensor:
    """float64 `[B, 4 * _NUM_BLOCKS]` in (0, 1). Counter: id low, id high, echo, view with number of block."""
    if not isinstance(sample_ids, Tensor):
        raise TypeError(f"sample_ids must be a tensor, int64 [B], got {type(sample_ids).__name__}")
    if sample_ids.dtype != torch.int64 or sample_ids.ndim != 1:
        raise ValueError(f"sample_ids must be int64 [B], got {sample_ids.dtype} {list(sample_ids.shape)}")
    _require_int("run_seed", run_seed)
    if not 0 <= run_seed < 2**64:
        raise ValueError(f"run_seed must lie in 0 .. 2**64 - 1, got {run_seed}")
    sample_ids = sample_ids.cpu()
    num_samples = len(sample_ids)
    low, high = words_of(sample_ids)
    block = torch.arange(_NUM_BLOCKS)
    counter = torch.empty(num_samples, _NUM_BLOCKS, 4, dtype=torch.int64)
    counter[..., 0] = low[:, None]
    counter[..., 1] = high[:, None]
    counter[..., 2] = _column("echoes", echoes, num_samples, 32)
    counter[..., 3] = (_column("views", views, num_samples, _VIEW_BITS) << _BLOCK_BITS) | block
    key = torch.tensor([run_seed & 0xFFFFFFFF, run_seed >> 32])
    return to_uniform(philox4x32(counter, key)).flatten(1)


def _column(name: str, value: Tensor | int, num_samples: int, bits: int) -> Tensor:
    """int64 `[B, 1]` or `[1, 1]` on the host."""
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.shape != (num_samples,):
            raise ValueError(f"{name} must be an int or int64 [{num_samples}], got {value.dtype} {list(value.shape)}")
        numbers = value.tolist()
    else:
        _require_int(name, value)
        numbers = [value]
    for number in numbers:
        if not 0 <= number < 1 << bits:
            raise ValueError(f"{name} must lie in 0 .. 2**{bits} - 1, got {number}")
    return torch.tensor(numbers, dtype=torch.int64)[:, None]


def _require_int(name: str, value: int) -> None:
    """A bool is an int to Python, a float is one to torch; neither is meant by a caller who knows."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")


def _draw_crop(recipe: AugmentRecipe, uniform: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """Top, left, height, width: the first of ten tries that fits, else the largest centred crop in ratio."""
    low, high = recipe.crop_scale
    area = height * width * (low + (high - low) * uniform[:, _AREA])
    log_low, log_high = math.log(recipe.crop_ratio[0]), math.log(recipe.crop_ratio[1])
    ratio = torch.exp(log_low + (log_high - log_low) * uniform[:, _RATIO])
    tried_width = (area * ratio).sqrt().round().long()
    tried_height = (area / ratio).sqrt().round().long()
    fits = (tried_width > 0) & (tried_width <= width) & (tried_height > 0) & (tried_height <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    fallback_height, fallback_width = _central_crop(recipe, height, width)
    any_fits = fits.any(dim=1)
    crop_height = tried_height.gather(1, first).squeeze(1).where(any_fits, fallback_height)
    crop_width = tried_width.gather(1, first).squeeze(1).where(any_fits, fallback_width)
    # A number below 1 may reach its upper end when scaled, hence the minimum.
    top_room, left_room = height - crop_height, width - crop_width
    top = (uniform[:, _TOP] * (top_room + 1)).long().minimum(top_room).where(any_fits, top_room // 2)
    left = (uniform[:, _LEFT] * (left_room + 1)).long().minimum(left_room).where(any_fits, left_room // 2)
    return top, left, crop_height, crop_width


def _central_crop(recipe: AugmentRecipe, height: int, width: int) -> tuple[int, int]:
    low, high = recipe.crop_ratio
    if width / height < low:
        return max(1, round(width / low)), width
    if width / height > high:
        return height, max(1, round(height * high))
    return height, width


def _draw_downsample(recipe: AugmentRecipe, uniform: Tensor, shorter_side: int) -> Tensor:
    """One number decides both: below the probability p, a number over p is evenly spread over 0 .. 1 again."""
    probability, sizes = recipe.downsample_probability, recipe.downsample_sizes
    if probability == 0:
        return torch.zeros(len(uniform), dtype=torch.int64)
    if max(sizes) >= shorter_side:
        raise ValueError(f"downsample_sizes must be smaller than the images' shorter side, {shorter_side}, got {sizes}")
    chosen = (uniform / probability * len(sizes)).long().clamp(max=len(sizes) - 1)
    return torch.tensor(sizes)[chosen].where(uniform < probability, 0)


def _draw_color(recipe: AugmentRecipe, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """`color_factors`, neutral for samples that are not jittered, and `color_order`."""
    ranges = [(max(0.0, 1 - b), 1 + b) for b in (recipe.brightness, recipe.contrast, recipe.saturation)]
    low, high = torch.tensor([*ranges, (-recipe.hue, recipe.hue)], dtype=torch.float64).unbind(1)
    neutral = torch.tensor(_NEUTRAL, dtype=torch.float64)
    drawn = low + (high - low) * uniform[:, _FACTORS]
    jittered = uniform[:, _JITTER, None] < recipe.jitter_probability
    # The ranks of four independent numbers are a uniformly drawn permutation.
    return drawn.where(jittered, neutral).float(), uniform[:, _ORDER].argsort(dim=1, stable=True)
