"""torchvision v2's float operations one image after the other, by torchvision's own formulas in plain torch.

torchvision cannot be imported beside PyTorch's CPU wheel everywhere, so its arithmetic is written out here, as its
`transforms/v2/functional` has it; `tests/benchmarks/test_augment.py` holds it to views that torchvision made. Like
torchvision's, its blur is one two-dimensional convolution, of 23 x 23 taps by default.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.kernels.augment_params import AugmentParams


def augment_one_by_one(images: Tensor, params: AugmentParams) -> Tensor:
    """uint8 `[B, H, W, 3]` to float32 `[B, 3, S, S]`; no downsample."""
    recipe = params.recipe
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.mean, recipe.std))
    views = [_view(image.permute(2, 0, 1), params, sample) for sample, image in enumerate(images)]
    return torch.stack([view.sub(mean).div_(std) for view in views])


def _view(image: Tensor, params: AugmentParams, sample: int) -> Tensor:
    recipe = params.recipe
    top, left = int(params.top[sample]), int(params.left[sample])
    height, width = int(params.crop_height[sample]), int(params.crop_width[sample])
    cut = image[:, top : top + height, left : left + width].float() / 255
    x = F.interpolate(cut[None], size=(recipe.size, recipe.size), mode="bilinear", antialias=True)[0]
    factors = params.color_factors[sample].tolist()
    for step in params.color_order[sample].tolist():
        if factors[step] != (1.0, 1.0, 1.0, 0.0)[step]:
            x = _jitter(x, step, factors[step])
    if params.grayscale[sample]:
        x = _gray(x).expand(3, -1, -1)
    if sigma := float(params.blur_sigma[sample]):
        x = _blur(x, sigma, recipe.blur_kernel_size)
    return x.flip(-1) if params.flip[sample] else x


def _jitter(x: Tensor, step: int, factor: float) -> Tensor:
    if step == 0:
        return x.mul(factor).clamp_(0, 1)
    if step == 3:
        return _turn_hue(x, factor)
    gray = _gray(x)
    other = gray.mean(dim=(-3, -2, -1), keepdim=True) if step == 1 else gray
    return x.mul(factor).add_(other * (1 - factor)).clamp_(0, 1)


def _gray(x: Tensor) -> Tensor:
    red, green, blue = x.unbind(0)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[None]


def _turn_hue(x: Tensor, turn: float) -> Tensor:
    red, green, blue = x.unbind(0)
    low, value = x.aminmax(dim=0)
    is_gray = value == low
    chroma = value - low
    saturation = chroma / value.where(~is_gray, 1.0)
    red_gap, green_gap, blue_gap = ((value - channel) / chroma.where(~is_gray, 1.0) for channel in (red, green, blue))
    is_red, is_green = value == red, (value == green) & (value != red)
    hue = is_red * (blue_gap - green_gap)
    hue += is_green * (red_gap - blue_gap + 2.0)
    hue += ~(is_red | is_green) * (green_gap - red_gap + 4.0)
    hue_6 = (hue / 6 + 1 + turn).remainder(1.0) * 6
    sector = hue_6.floor()
    part = hue_6 - sector
    sector = sector.long().remainder(6)
    p, q, t = (value * (1 - saturation * gap) for gap in (1.0, part, 1 - part))
    cases = torch.stack([value, q, p, p, t, value, t, value, value, q, p, p, p, p, t, value, value, q])
    return cases.view(3, 6, *value.shape).gather(1, sector.expand(3, 1, -1, -1)).squeeze(1)


def _blur(x: Tensor, sigma: float, kernel_size: int) -> Tensor:
    radius = kernel_size // 2
    line = torch.softmax(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square(), dim=0)
    kernel = (line[:, None] * line).expand(3, 1, kernel_size, kernel_size)
    padded = F.pad(x[None], (radius,) * 4, mode="reflect")
    return F.conv2d(padded, kernel, groups=3)[0]
