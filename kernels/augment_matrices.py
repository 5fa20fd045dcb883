"""Resizing and blurring along one axis: as taps for all backends, as matrices for the reference.

The antialiased bilinear resize is that of `torch.nn.functional.interpolate(antialias=True)`, which torchvision
calls: output pixel i lies at (i + 1/2) * extent / out_size of the cut; it takes the pixels around it by a
triangle whose half width is one pixel, or one output pixel where that is wider, cut off at the cut's ends and
normalised. Positions are formed in float64: at pixel 200 a float32 is off by as much as the whole chain may be.
Matrices are float64 because PyTorch multiplies float32 ones by bfloat16 or TF32 where autocast or the float32
matmul precision says so.
"""

import math

import torch
from torch import Tensor

from penstock.kernels.augment_params import AugmentParams

BLUR_REACH = 5.5
"""Deviations at which `cut_blur_taps` ends a Gaussian: what is left of it weighs less than 1e-7."""


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
    index = torch.arange(out_size, dtype=torch.float64, device=start.device)
    index = torch.where(flip[:, None], index.flip(0), index)
    center = (index + 0.5) * scale[:, None]
    first = (center - support + 0.5).floor().long()
    # An open interval of this length holds no more whole numbers.
    tap = first[:, :, None] + torch.arange(math.ceil(2 * max(in_size / out_size, 1.0)), device=start.device)
    weight = (1 - (tap.double() + 0.5 - center[:, :, None]).abs() / support[:, :, None]).clamp(min=0)
    weight = weight.where((tap >= 0) & (tap < extent[:, None, None]), 0.0)
    return start[:, None] + first, (weight / weight.sum(dim=2, keepdim=True)).float()


def view_taps(params: AugmentParams, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`resample_taps` of the crops' rows, then of their columns, which hold the flip.

    Formed on `device`, as there are hundreds of them for each number of a crop.
    """
    # Apple's GPUs have no float64.
    where = torch.device("cpu") if device.type == "mps" else device
    crops = (params.top, params.crop_height, params.left, params.crop_width, params.flip.long())
    top, crop_height, left, crop_width, flip = torch.stack(crops).to(where)
    size = params.recipe.size
    rows = resample_taps(top, crop_height, torch.zeros_like(flip, dtype=torch.bool), params.height, size)
    columns = resample_taps(left, crop_width, flip.bool(), params.width, size)
    first_row, of_rows, first_column, of_columns = (taps.to(device) for taps in (*rows, *columns))
    return first_row, of_rows, first_column, of_columns


def whole_taps(in_size: int, out_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64 `[1, out_size]` and float32 `[1, out_size, T]`: a resize of the whole axis."""
    start, upright = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    first, weight = resample_taps(start, start + in_size, upright, in_size, out_size)
    return first.to(device), weight.to(device)


def matrix(first: Tensor, weight: Tensor, in_size: int) -> Tensor:
    """float64 `[B, out_size, in_size]`: taps, `first [B, out_size]` and `weight [B, out_size, T]`, as a matrix."""
    tap = first[:, :, None] + torch.arange(weight.shape[2], device=first.device)
    empty = torch.zeros(*first.shape, in_size, dtype=torch.float64, device=first.device)
    # Taps outside the image have weight zero; clamping only gives them a place to be added to.
    return empty.scatter_add_(2, tap.clamp(0, in_size - 1), weight.double())


def there_and_back_matrix(side: int, small_side: int, device: torch.device) -> Tensor:
    """float64 `[side, side]`: a resize of the whole axis to `small_side` and back."""
    there, back = whole_taps(side, small_side, device), whole_taps(small_side, side, device)
    return matrix(*back, small_side)[0] @ matrix(*there, side)[0]


def small_sides(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Height and width after a resize to that shorter side; the longer is rounded down, as torchvision does."""
    small = min(height, width)
    return shorter_side * height // small, shorter_side * width // small


def blur_taps(sigma: Tensor, kernel_size: int) -> Tensor:
    """float32 `[n, kernel_size]`: Gaussians of standard deviation `sigma [n]` pixels, each of sum 1."""
    radius = kernel_size // 2
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    return torch.softmax(-0.5 * (offset / sigma.double()[:, None]).square(), dim=1).float()


def cut_blur_taps(sigma: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """`blur_taps`, zero beyond each sample's own reach, and the reach, int64 `[n]`.

    Its own, so that no bit of a sample hangs on how far its neighbours reach.
    """
    radius = kernel_size // 2
    reach = (sigma.double() * BLUR_REACH).ceil().clamp(max=radius).long()
    distance = torch.arange(-radius, radius + 1, device=sigma.device).abs()
    return blur_taps(sigma, kernel_size).where(distance <= reach[:, None], 0.0), reach


def blur_matrix(sigma: Tensor, kernel_size: int, size: int) -> Tensor:
    """float64 `[n, size, size]`: `blur_taps` as a matrix; edges are mirrored without repeat."""
    radius = kernel_size // 2
    pixel = torch.arange(size, device=sigma.device)
    shift = torch.arange(-radius, radius + 1, device=sigma.device)
    source = (pixel + shift[:, None]).abs()
    source = size - 1 - (size - 1 - source).abs()
    # One-hot [taps, size, size]: adding equal sources by a product keeps the sum's order fixed on every
    # device.
    place = torch.zeros(kernel_size, size, size, dtype=torch.float64, device=sigma.device)
    place[shift[:, None] + radius, pixel, source] = 1.0
    return (blur_taps(sigma, kernel_size).double() @ place.flatten(1)).view(-1, size, size)
