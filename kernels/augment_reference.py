"""The augmentation in plain batched torch: the oracle of the other backends.

Semantics are torchvision v2's on float images in 0 .. 1: resize to a smaller size and back, crop and
antialiased bilinear resize, brightness, contrast, saturation and hue in each sample's own order with a clamp
after each, greyscale, Gaussian blur with mirrored edges, flip, normalise.

Resizing and blurring are linear along each axis, so each is a product with one matrix per sample and axis; a
flip only turns the order of the rows of a matrix. These products are in float64, all else is in float32. Colour
is done on planes `[3, B, S, S]`, where a channel is contiguous.
"""

import torch
from torch import Tensor

from penstock.kernels.augment_matrices import blur_matrix, matrix, small_sides, there_and_back_matrix, view_taps
from penstock.kernels.augment_params import CONTRAST, HUE, SATURATION, AugmentParams
from penstock.kernels.augment_recipe import AugmentRecipe

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R 601 as torchvision rounds it."""


def augment_reference(images: Tensor, params: AugmentParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """`augment` on the whole batch at once; checks nothing. No arithmetic is below float32, whatever `dtype`.

    `images` uint8 `[B, H, W, 3]`; returns `dtype` `[B, 3, S, S]` on the same device.
    """
    size = params.recipe.size
    output = torch.empty(len(images), 3, size, size, dtype=dtype, device=images.device)
    planes = planes_of(images)
    _downsample_(planes, params.downsample)
    first_row, of_rows, first_column, of_columns = view_taps(params, images.device)
    planes = _transform(
        matrix(first_row, of_rows, params.height), planes, matrix(first_column, of_columns, params.width)
    )
    jitter_(planes, params)
    grayscale_(planes, params)
    _blur_(planes, params)
    normalise_into(output, planes, params.recipe)
    return output


def planes_of(images: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` to float32 `[3, B, H, W]` in 0 .. 1."""
    return images.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _downsample_(planes: Tensor, shorter_sides: Tensor) -> None:
    """Resizes those of `planes [3, B, H, W]` whose `shorter_sides [B]`, on the host, is not 0, there and back."""
    _, _, height, width = planes.shape
    for shorter_side in shorter_sides.unique().tolist():
        if shorter_side:
            small_height, small_width = small_sides(height, width, shorter_side)
            rows = there_and_back_matrix(height, small_height, planes.device)
            columns = there_and_back_matrix(width, small_width, planes.device)
            index = (shorter_sides == shorter_side).nonzero().squeeze(1).to(planes.device)
            planes[:, index] = _transform(rows[None], planes[:, index], columns[None])


def _transform(rows: Tensor, planes: Tensor, columns: Tensor) -> Tensor:
    """float32 `rows[b] @ planes[c, b] @ columns[b].T`; by channel, as a broadcast product would copy the matrices."""
    return torch.stack([(rows @ source.double() @ columns.mT).float() for source in planes])


def jitter_(planes: Tensor, params: AugmentParams) -> None:
    """Brightness, contrast, saturation and hue of `planes [3, B, S, S]`, in each sample's own order."""
    for step in params.color_order.unbind(1):
        factor = params.color_factors.gather(1, step[:, None]).squeeze(1)
        blended = factor.where(step != HUE, 1.0)
        if (blended != 1).any():
            _blend_(planes, step, blended)
        turned = ((step == HUE) & (factor != 0)).nonzero().squeeze(1)
        if len(turned):
            # All samples are a view of themselves; an index copies.
            index = turned.to(planes.device) if len(turned) < len(step) else slice(None)
            planes[:, index] = _turn_hue(planes[:, index], factor[turned].to(planes.device))


def _blend_(planes: Tensor, step: Tensor, factor: Tensor) -> None:
    """`factor * image + (1 - factor) * base`.

    The base is black for brightness, the mean grey for contrast, the pixel's grey for saturation; `step [B]`
    says which of the three each sample takes, so that one pass serves all.
    """
    rest = 1 - factor
    keep, to_mean, to_gray = (
        part.to(planes.device)[:, None, None]
        for part in (factor, rest * (step == CONTRAST), rest * (step == SATURATION))
    )
    gray = _luma(planes)
    # By rows first: the sum of a whole plane would be split among as many threads as there are, and round otherwise.
    mean = gray.mean(dim=2).mean(dim=1)[:, None, None]
    base = (mean * to_mean).addcmul(gray, to_gray)
    planes.mul_(keep).add_(base).clamp_(0, 1)


def _luma(planes: Tensor) -> Tensor:
    """`[B, S, S]` grey of `[3, B, S, S]`."""
    return (planes[0] * LUMA[0]).add_(planes[1], alpha=LUMA[1]).add_(planes[2], alpha=LUMA[2])


def _turn_hue(planes: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue of `[3, n, S, S]` by `turn [n]` circles, in HSV.

    The way back from HSV is v - chroma * clamp(min(k, 4 - k), 0, 1), k = (5, 3, 1 + 6 h) mod 6 for red,
    green, blue: the usual six cases in one formula.
    """
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Where chroma is 0 so is what it divides, whatever the divisor.
    per_chroma = chroma.clamp(min=1e-30).reciprocal_()
    is_red, is_green = value.clone().eq_(red), value.clone().eq_(green)
    # `lerp` at 0 and 1 is a `where` that runs five times as fast on the CPU, as floor is to `remainder`.
    hue_6 = (red - green).mul_(per_chroma).add_(4)
    hue_6.lerp_((blue - red).mul_(per_chroma).add_(2), is_green)
    hue_6.lerp_((green - blue).mul_(per_chroma), is_red)
    hue_6 += 6 * turn[:, None, None]
    turned = torch.empty_like(planes)
    for plane, offset in zip(turned, (5, 3, 1), strict=True):
        k = hue_6 + offset
        k.sub_((k / 6).floor_(), alpha=6)
        torch.sub(value, torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma), out=plane)
    return turned


def grayscale_(planes: Tensor, params: AugmentParams) -> None:
    """Makes those of `planes [3, B, S, S]` grey that are to be."""
    index = params.grayscale.nonzero().squeeze(1).to(planes.device)
    if len(index):
        planes[:, index] = _luma(planes[:, index])


def _blur_(planes: Tensor, params: AugmentParams) -> None:
    index = params.blur_sigma.nonzero().squeeze(1)
    if len(index):
        sigma, index = params.blur_sigma[index].to(planes.device), index.to(planes.device)
        blur = blur_matrix(sigma, params.recipe.blur_kernel_size, planes.shape[-1])
        planes[:, index] = _transform(blur, planes[:, index], blur)


def normalise_into(output: Tensor, planes: Tensor, recipe: AugmentRecipe) -> None:
    """Writes `planes [3, B, S, S]`, less the mean and over the deviation, to `output [B, 3, S, S]`; spoils them."""
    for channel, (mean, std) in enumerate(zip(recipe.mean, recipe.std, strict=True)):
        output[:, channel] = planes[channel].sub_(mean).div_(std)
