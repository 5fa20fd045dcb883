"""The augmentation a few samples at a time, for the CPU: what fits the cache, and only the pixels of the crop.

The same steps as `augment_reference.py`, whose colour steps it uses. Resizing and blurring go by taps instead of
matrices: a weighted sum of whole rows, which takes a tenth of the arithmetic and runs along the memory. The other
axis is the same after a transposition; so colour, which knows no neighbours, and the blur, which treats both axes
alike, work on transposed planes `[3, n, x, y]`, and the last copy into the result turns them back.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.kernels.augment_matrices import cut_blur_taps, small_sides, view_taps, whole_taps
from penstock.kernels.augment_params import AugmentParams
from penstock.kernels.augment_reference import grayscale_, jitter_, normalise_into, planes_of

# Pixels worked on at a time on the host: one image of 256 x 256, 64 of 32 x 32.
_CHUNK_PIXELS = 1 << 16
# On an accelerator 256 of 256 x 256: enough to fill it, and about a gigabyte of planes.
_CHUNK_PIXELS_ACCELERATOR = 1 << 24


def augment_chunked(images: Tensor, params: AugmentParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """`augment` by chunks; checks nothing. All arithmetic is in float32, whatever `dtype`.

    `images` uint8 `[B, H, W, 3]`; returns `dtype` `[B, 3, S, S]` on the same device.
    """
    size = params.recipe.size
    output = torch.empty(len(images), 3, size, size, dtype=dtype, device=images.device)
    first_row, of_rows, first_column, of_columns = view_taps(params, images.device)
    for chunk in chunks(images, size):
        of_chunk = params.of(chunk)
        planes, top, left = _cut(images[chunk], of_chunk)
        planes = _sum_rows(planes, first_row[chunk] - top, of_rows[chunk])
        planes = _sum_rows(planes.mT.contiguous(), first_column[chunk] - left, of_columns[chunk])
        jitter_(planes, of_chunk)
        grayscale_(planes, of_chunk)
        _blur_(planes, of_chunk)
        normalise_into(output[chunk], planes.mT, params.recipe)
    return output


def chunks(images: Tensor, size: int) -> Iterator[slice]:
    """Slices of `images [B, H, W, 3]`: what fits the cache on the host, what fills an accelerator there."""
    pixels = max(images.shape[1] * images.shape[2], size * size)
    step = max(1, (_CHUNK_PIXELS if images.device.type == "cpu" else _CHUNK_PIXELS_ACCELERATOR) // pixels)
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _cut(images: Tensor, params: AugmentParams) -> tuple[Tensor, int, int]:
    """float32 planes `[3, n, h, w]` of the part that holds all crops of a chunk, and where it begins."""
    if params.downsample.any():
        planes = planes_of(images)
        downsample_(planes, params.downsample)
        return planes, 0, 0
    top, left = int(params.top.min()), int(params.left.min())
    bottom, right = int((params.top + params.crop_height).max()), int((params.left + params.crop_width).max())
    return planes_of(images[:, top:bottom, left:right]), top, left


def downsample_(planes: Tensor, shorter_sides: Tensor) -> None:
    """Resizes those of `planes [3, B, H, W]` whose `shorter_sides [B]`, on the host, is not 0, there and back."""
    _, _, height, width = planes.shape
    for shorter_side in shorter_sides.unique().tolist():
        if shorter_side:
            index = (shorter_sides == shorter_side).nonzero().squeeze(1).to(planes.device)
            small = _resize(planes[:, index], *small_sides(height, width, shorter_side))
            planes[:, index] = _resize(small, height, width)


def _resize(planes: Tensor, height: int, width: int) -> Tensor:
    """`planes [3, n, h, w]` as `[3, n, height, width]`: the rows and a transposition, twice."""
    for size in (height, width):
        first, weight = whole_taps(planes.shape[2], size, planes.device)
        planes = _sum_rows(planes, first.expand(planes.shape[1], -1), weight).mT.contiguous()
    return planes


def _sum_rows(planes: Tensor, first: Tensor, weight: Tensor) -> Tensor:
    """`[3, n, S, w]`: row s of sample b is the sum of the T rows of `planes [3, n, h, w]` from `first [n, S]` on.

    By `weight [n, S, T]` (or `[1, S, T]`), which is zero where such a row does not exist.
    """
    _, num, height, width = planes.shape
    start_of_plane = torch.arange(3 * num, device=planes.device).view(3, num, 1) * height
    every_row = planes.view(-1, width)
    total = planes.new_zeros(())
    for tap in range(weight.shape[2]):
        index = (start_of_plane + (first + tap).clamp(0, height - 1)).view(-1)
        taken = every_row.index_select(0, index).view(3, num, -1, width)
        of_tap = weight[:, :, tap, None]
        total = total.addcmul_(taken, of_tap) if tap else taken.mul_(of_tap)
    return total


def _blur_(planes: Tensor, params: AugmentParams) -> None:
    index = params.blur_sigma.nonzero().squeeze(1)
    if len(index):
        kernel_size = params.recipe.blur_kernel_size
        weight, reaches = cut_blur_taps(params.blur_sigma[index], kernel_size)
        reach, middle = int(reaches.max()), kernel_size // 2
        weight = weight[:, middle - reach : middle + reach + 1].to(planes.device)
        # One sample is a view of itself; an index copies.
        of_index = index.to(planes.device) if len(index) < planes.shape[1] else slice(None)
        once = _blur_rows(planes[:, of_index], weight, reach)
        planes[:, of_index] = _blur_rows(once.mT.contiguous(), weight, reach).mT


def _blur_rows(planes: Tensor, weight: Tensor, reach: int) -> Tensor:
    """Sums rows `-reach .. reach` around every row of `planes [3, n, S, S]` by `weight [n, taps]`."""
    size = planes.shape[2]
    padded = F.pad(planes, (0, 0, reach, reach), mode="reflect")
    total = planes * weight[:, reach, None, None]
    for tap in range(2 * reach + 1):
        if tap != reach:
            total.addcmul_(padded[:, :, tap : tap + size], weight[:, tap, None, None])
    return total
