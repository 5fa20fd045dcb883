"""The augmentation in plain batched torch: the oracle of the other backends and, by chunks, the CPU's path.

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
    augment_into(output, images, params)
    return output


def augment_into(output: Tensor, images: Tensor, params: AugmentParams) -> None:
    """`augment_reference` into a given `output [B, 3, S, S]`."""
    recipe, device = params.recipe, images.device
    _, height, width, _ = images.shape
    planes = planes_of(images)
    downsample_(planes, params.downsample)
    upright = torch.zeros_like(params.flip)
    rows = resample_matrix(params.top, params.crop_height, upright, height, recipe.size).to(device)
    columns = resample_matrix(params.left, params.crop_width, params.flip, width, recipe.size).to(device)
    planes = _transform(rows, planes, columns)
    _jitter_(planes, params)
    _grayscale_(planes, params)
    _blur_(planes, params)
    normalise_into(output, planes, recipe)


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


def _jitter_(planes: Tensor, params: AugmentParams) -> None:
    for step in params.color_order.unbind(1):
        factor = params.color_factors.gather(1, step[:, None]).squeeze(1)
        blended = factor.where(step != _HUE, 1.0)
        if (blended != 1).any():
            _blend_(planes, step, blended)
        turned = ((step == _HUE) & (factor != 0)).nonzero().squeeze(1)
        if len(turned):
            index = turned.to(planes.device)
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
    value, chroma = planes.amax(dim=0), planes.amax(dim=0) - planes.amin(dim=0)
    per_chroma = chroma.where(chroma > 0, 1.0).reciprocal_()
    hue_6 = torch.where(
        value == red,
        (green - blue) * per_chroma,
        torch.where(value == green, (blue - red) * per_chroma + 2, (red - green) * per_chroma + 4),
    )
    hue_6 += 6 * turn[:, None, None]
    turned = torch.empty_like(planes)
    for plane, offset in zip(turned, (5, 3, 1), strict=True):
        k = (hue_6 + offset).remainder_(6)
        torch.sub(value, torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma), out=plane)
    return turned


def _grayscale_(planes: Tensor, params: AugmentParams) -> None:
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
