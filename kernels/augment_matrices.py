"""Resizing and blurring along one axis, as taps and as matrices: what all backends of the augmentation share.

The antialiased bilinear resize is that of `torch.nn.functional.interpolate(antialias=True)`, which torchvision
calls: output pixel i lies at (i + 1/2) * extent / out_size of the cut; it takes the pixels around it by a
triangle whose half width is one pixel, or one output pixel where that is wider, cut off at the cut's ends and
normalised. Positions are formed in float64: at pixel 200 a float32 is off by as much as the whole chain may be.
"""

import math

import torch
from torch import Tensor


def resample_taps(start: Tensor, extent: Tensor, flip: Tensor, in_size: int, out_size: int) -> tuple[Tensor, Tensor]:
    """Cuts start .. start + extent out of in_size pixels and resizes it to out_size, mirrored where flip says so.

    Args:
        start, extent: int64 `[B]`.
        flip: bool `[B]`.

    Returns:
        int64 `[B, out_size]`, the first input pixel of each output pixel, which may lie outside the image;
        float32 `[B, out_size, T]`, the weights of the T pixels from there on, zero outside the cut.
    """
    scale = extent.double() / out_size
    support = scale.clamp(min=1.0)[:, None]
    index = torch.arange(out_size, device=start.device)
    index = torch.where(flip[:, None], index.flip(0), index)
    center = (index + 0.5) * scale[:, None]
    first = (center - support + 0.5).floor().long()
    # An open interval of this length holds no more whole numbers.
    tap = first[:, :, None] + torch.arange(math.ceil(2 * max(in_size / out_size, 1.0)), device=start.device)
    weight = (1 - (tap + 0.5 - center[:, :, None]).abs() / support[:, :, None]).clamp(min=0)
    weight = weight.where((tap >= 0) & (tap < extent[:, None, None]), 0.0)
    return start[:, None] + first, (weight / weight.sum(dim=2, keepdim=True)).float()


def resample_matrix(start: Tensor, extent: Tensor, flip: Tensor, in_size: int, out_size: int) -> Tensor:
    """float32 `[B, out_size, in_size]`: the same as a matrix."""
    first, weight = resample_taps(start, extent, flip, in_size, out_size)
    tap = first[:, :, None] + torch.arange(weight.shape[2], device=start.device)
    matrix = torch.zeros(len(start), out_size, in_size, device=start.device)
    # Taps outside the image have weight zero; clamping only gives them a place to be added to.
    return matrix.scatter_add_(2, tap.clamp(0, in_size - 1), weight)


def resize_matrix(in_size: int, out_size: int) -> Tensor:
    """float32 `[out_size, in_size]`: a resize of the whole axis."""
    start, upright = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    return resample_matrix(start, start + in_size, upright, in_size, out_size)[0]


def there_and_back_matrices(height: int, width: int, shorter_side: int) -> tuple[Tensor, Tensor]:
    """float32 `[H, H]` and `[W, W]`: a resize to that shorter side, aspect kept, and back, for rows and columns.

    The longer side is rounded down, as torchvision's `Resize` does.
    """
    small = min(height, width)
    rows, columns = (
        resize_matrix(shorter_side * side // small, side) @ resize_matrix(side, shorter_side * side // small)
        for side in (height, width)
    )
    return rows, columns


def blur_taps(sigma: Tensor, kernel_size: int) -> Tensor:
    """float32 `[n, kernel_size]`: Gaussians of standard deviation `sigma [n]` pixels, each of sum 1."""
    radius = kernel_size // 2
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    return torch.softmax(-0.5 * (offset / sigma[:, None]).square(), dim=1)


def blur_matrix(sigma: Tensor, kernel_size: int, size: int) -> Tensor:
    """float32 `[n, size, size]`: the same as a matrix; edges are mirrored without repeat."""
    radius = kernel_size // 2
    pixel = torch.arange(size)
    source = (pixel + torch.arange(-radius, radius + 1)[:, None]).abs()
    source = size - 1 - (size - 1 - source).abs()
    # One-hot [taps, size, size]: adding equal sources by a product keeps the sum's order fixed on every
    # device.
    place = torch.zeros(kernel_size, size, size)
    place[torch.arange(kernel_size)[:, None], pixel, source] = 1.0
    return (blur_taps(sigma, kernel_size) @ place.flatten(1)).view(-1, size, size)
