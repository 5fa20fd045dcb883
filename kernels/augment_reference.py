"""The augmentation in plain batched torch: the oracle of the other backends.

Semantics are torchvision v2's on float images in 0 .. 1: resize to a smaller size and back, crop and
antialiased bilinear resize, brightness, contrast, saturation and hue in each sample's own order with a clamp
after each, greyscale, Gaussian blur with mirrored edges, flip, normalise.

Resizing and blurring are linear along each axis, so each is a product with one matrix per sample and axis; a
flip only turns the order of the rows of a matrix. Colour is done on planes `[3, B, S, S]`, where a channel is
contiguous.
"""

import torch
from torch import Tensor

from penstock.kernels.augment_matrices import blur_matrix, resample_matrix, there_and_back_matrices
from penstock.kernels.augment_params import AugmentParams
from penstock.kernels.augment_recipe import AugmentRecipe

_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # 0 is brightness
_LUMA = (0.2989, 0.587, 0.114)


def augment_reference(images: Tensor, params: AugmentParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """`augment` on the whole batch at once; checks nothing. All arithmetic is in float32, whatever `dtype`.

    `images` uint8 `[B, H, W, 3]`; returns `dtype` `[B, 3, S, S]` on the same device.
    """
    size = params.recipe.size
    output = torch.empty(len(images), 3, size, size, dtype=dtype, device=images.device)
    device = images.device
    _, height, width, _ = images.shape
    planes = planes_of(images)
    downsample_(planes, params.downsample)
    upright = torch.zeros_like(params.flip)
    rows = resample_matrix(params.top, params.crop_height, upright, height, size).to(device)
    columns = resample_matrix(params.left, params.crop_width, params.flip, width, size).to(device)
    planes = _transform(rows, planes, columns)
    jitter_(planes, params)
    grayscale_(planes, params)
    _blur_(planes, params)
    normalise_into(output, planes, params.recipe)
    return output


def planes_of(images: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` to float32 `[3, B, H, W]` in 0 .. 1."""
    return images.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def downsample_(planes: Tensor, shorter_sides: Tensor) -> None:
    """Resizes those of `planes [3, B, H, W]` whose `shorter_sides [B]`, on the host, is not 0, there and back."""
    _, _, height, width = planes.shape
    for shorter_side in shorter_sides.unique().tolist():
        if shorter_side:
            rows, columns = (m.to(planes.device) for m in there_and_back_matrices(height, width, shorter_side))
            index = (shorter_sides == shorter_side).nonzero().squeeze(1).to(planes.device)
            planes[:, index] = rows @ planes[:, index] @ columns.T


def _transform(rows: Tensor, planes: Tensor, columns: Tensor) -> Tensor:
    """`rows[b] @ planes[c, b] @ columns[b].T`; by channel, as a broadcast product would copy the matrices."""
    output = planes.new_empty(len(planes), len(rows), rows.shape[1], columns.shape[1])
    for source, target in zip(planes, output, strict=True):
        torch.bmm(torch.bmm(rows, source), columns.mT, out=target)
    return output


def jitter_(planes: Tensor, params: AugmentParams) -> None:
    """Brightness, contrast, saturation and hue of `planes [3, B, S, S]`, in each sample's own order."""
    for step in params.color_order.unbind(1):
        factor = params.color_factors.gather(1, step[:, None]).squeeze(1)
        blended = factor.where(step != _HUE, 1.0)
        if (blended != 1).any():
            _blend_(planes, step, blended)
        turned = ((step == _HUE) & (factor != 0)).nonzero().squeeze(1)
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
        for part in (factor, rest * (step == _CONTRAST), rest * (step == _SATURATION))
    )
    gray = _luma(planes)
    base = (gray.mean(dim=(1, 2), keepdim=True) * to_mean).addcmul(gray, to_gray)
    planes.mul_(keep).add_(base).clamp_(0, 1)


def _luma(planes: Tensor) -> Tensor:
    """`[B, S, S]` grey of `[3, B, S, S]`, by ITU-R 601 as torchvision rounds it."""
    return (planes[0] * _LUMA[0]).add_(planes[1], alpha=_LUMA[1]).add_(planes[2], alpha=_LUMA[2])


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
        matrix = blur_matrix(params.blur_sigma[index], params.recipe.blur_kernel_size, planes.shape[-1])
        matrix, index = matrix.to(planes.device), index.to(planes.device)
        planes[:, index] = _transform(matrix, planes[:, index], matrix)


def normalise_into(output: Tensor, planes: Tensor, recipe: AugmentRecipe) -> None:
    """Writes `planes [3, B, S, S]`, less the mean and over the deviation, to `output [B, 3, S, S]`; spoils them."""
    for channel, (mean, std) in enumerate(zip(recipe.mean, recipe.std, strict=True)):
        output[:, channel] = planes[channel].sub_(mean).div_(std)
