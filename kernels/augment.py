"""Augmentation of a batch of images, every sample by its own parameters, in plain batched torch.

`draw_params` says what happens to each sample, `augment` does it, `prepare` is the plain resize for
evaluation. Semantics are torchvision v2's on float images in 0 .. 1: crop and antialiased bilinear resize
(that of `torch.nn.functional.interpolate(antialias=True)`), brightness, contrast, saturation and hue in
random order with a clamp after each, greyscale, Gaussian blur with mirrored edges, flip, normalise.

Resizing and blurring are linear along each axis, so each is a product with one matrix per sample and axis; a
flip only turns the order of the rows of a matrix. Colour is done on planes `[3, B, S, S]`, where a channel is
contiguous.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from penstock.kernels.augment_params import AugmentParams, draw_params
from penstock.kernels.augment_recipe import AugmentRecipe

__all__ = ["AugmentParams", "AugmentRecipe", "augment", "draw_params", "prepare"]

_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # 0 is brightness
_LUMA = (0.2989, 0.587, 0.114)

# Pixels worked on at a time on the host, so that the planes of a chunk stay in the cache.
_CHUNK_PIXELS = 1 << 18


def augment(images: Tensor, params: AugmentParams) -> Tensor:
    """One augmented view of each image.

    Args:
        images: uint8 `[B, H, W, 3]`, with the H and W that the parameters were drawn for.
        params: from `draw_params`, for the same B samples.

    Returns:
        float32 `[B, 3, S, S]`, normalised, on the images' device, S = `params.recipe.size`.

    Raises:
        ValueError: images of another dtype, shape or number, or smaller than the parameters were drawn for.
    """
    _check_images(images)
    if len(images) != len(params):
        raise ValueError(f"images must be as many as the parameters, {len(params)}, got {len(images)}")
    for side, first, extent, available in (
        ("height", params.top, params.crop_height, images.shape[1]),
        ("width", params.left, params.crop_width, images.shape[2]),
    ):
        if (first + extent > available).any():
            raise ValueError(f"parameters must be drawn for these images, but a crop exceeds their {side}, {available}")
    output = _empty_output(images, params.recipe)
    for chunk in _chunks(images, output):
        _augment_into(output[chunk], images[chunk], params.of(chunk))
    return output


def prepare(images: Tensor, recipe: AugmentRecipe) -> Tensor:
    """Whole images resized to the recipe's size and normalised: what an encoder sees in evaluation.

    `images` uint8 `[B, H, W, 3]`; returns float32 `[B, 3, S, S]` on the same device; raises as `augment`.
    """
    _check_images(images)
    output = _empty_output(images, recipe)
    _, height, width, _ = images.shape
    for chunk in _chunks(images, output):
        planes = _planes(images[chunk])
        if (height, width) != (recipe.size, recipe.size):
            start, upright = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
            rows = _resample_matrix(start, start + height, upright, height, recipe.size)[0].to(images.device)
            columns = _resample_matrix(start, start + width, upright, width, recipe.size)[0].to(images.device)
            planes = rows @ planes @ columns.T
        _normalise_into(output[chunk], planes, recipe)
    return output


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")


def _empty_output(images: Tensor, recipe: AugmentRecipe) -> Tensor:
    return torch.empty(len(images), 3, recipe.size, recipe.size, device=images.device)


def _chunks(images: Tensor, output: Tensor) -> Iterator[slice]:
    """Slices of the batch: the whole of it on an accelerator, what fits the cache on the host."""
    pixels = max(images.shape[1] * images.shape[2], output.shape[2] * output.shape[3])
    step = max(1, _CHUNK_PIXELS // pixels) if images.device.type == "cpu" else max(1, len(images))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _planes(images: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` to float32 `[3, B, H, W]` in 0 .. 1."""
    return images.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _augment_into(output: Tensor, images: Tensor, params: AugmentParams) -> None:
    recipe, device = params.recipe, images.device
    _, height, width, _ = images.shape
    upright = torch.zeros_like(params.flip)
    rows = _resample_matrix(params.top, params.crop_height, upright, height, recipe.size).to(device)
    columns = _resample_matrix(params.left, params.crop_width, params.flip, width, recipe.size).to(device)
    planes = _transform(rows, _planes(images), columns)
    _jitter_(planes, params)
    _grayscale_(planes, params)
    _blur_(planes, params)
    _normalise_into(output, planes, recipe)


def _transform(rows: Tensor, planes: Tensor, columns: Tensor) -> Tensor:
    """`rows[b] @ planes[c, b] @ columns[b].T`; by channel, as a broadcast product would copy the matrices."""
    output = planes.new_empty(len(planes), len(rows), rows.shape[1], columns.shape[1])
    for source, target in zip(planes, output, strict=True):
        torch.bmm(torch.bmm(rows, source), columns.mT, out=target)
    return output


def _resample_matrix(start: Tensor, extent: Tensor, flip: Tensor, in_size: int, out_size: int) -> Tensor:
    """float32 `[B, out_size, in_size]`: cuts start .. start + extent and resizes it to out_size.

    Output pixel i lies at (i + 1/2) * extent / out_size of the cut; it takes the pixels around it by a
    triangle whose half width is one pixel, or one output pixel where that is wider, cut off at the cut's ends
    and normalised.
    """
    scale = extent.double() / out_size
    support = scale.clamp(min=1.0)[:, None, None]
    index = torch.arange(out_size)
    index = torch.where(flip[:, None], index.flip(0), index)
    center = ((index + 0.5) * scale[:, None])[:, :, None]
    num_taps = 2 * math.ceil(max(in_size / out_size, 1.0)) + 1
    tap = (center - support + 0.5).floor().long() + torch.arange(num_taps)
    weight = (1 - (tap + 0.5 - center).abs() / support).clamp(min=0)
    weight = weight.where((tap >= 0) & (tap < extent[:, None, None]), 0.0)
    weight = weight / weight.sum(dim=2, keepdim=True)
    matrix = torch.zeros(len(start), out_size, in_size)
    # Taps outside the image have weight zero; clamping only gives them a place to be added to.
    return matrix.scatter_add_(2, (start[:, None, None] + tap).clamp(0, in_size - 1), weight.float())


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
        matrix = _blur_matrix(params.blur_sigma[index], params.recipe.blur_kernel_size, planes.shape[-1])
        matrix, index = matrix.to(planes.device), index.to(planes.device)
        planes[:, index] = _transform(matrix, planes[:, index], matrix)


def _blur_matrix(sigma: Tensor, kernel_size: int, size: int) -> Tensor:
    """float32 `[n, size, size]`: a normalised Gaussian of kernel_size taps, edges mirrored without repeat."""
    radius = kernel_size // 2
    offset = torch.arange(-radius, radius + 1)
    weight = torch.softmax(-0.5 * (offset / sigma[:, None]).square(), dim=1)
    pixel = torch.arange(size)
    source = (pixel + offset[:, None]).abs()
    source = size - 1 - (size - 1 - source).abs()
    # One-hot [taps, size, size]: adding equal sources by a product keeps the sum's order fixed on every
    # device.
    place = torch.zeros(kernel_size, size, size)
    place[torch.arange(kernel_size)[:, None], pixel, source] = 1.0
    return (weight @ place.flatten(1)).view(-1, size, size)


def _normalise_into(output: Tensor, planes: Tensor, recipe: AugmentRecipe) -> None:
    for channel, (mean, std) in enumerate(zip(recipe.mean, recipe.std, strict=True)):
        torch.sub(planes[channel], mean, out=output[:, channel])
        output[:, channel].div_(std)
