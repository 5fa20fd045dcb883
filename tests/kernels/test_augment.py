"""Augmentation against oracles written by others: torch's interpolate, colorsys, scipy's Gaussian filter."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from penstock.kernels.augment import AugmentParams, AugmentRecipe, augment, draw_params, prepare

torch.set_num_threads(1)

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def photos(num: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Returns uint8 `[num, H, W, 3]`: smooth colour with noise, so that filters have something to change."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic").permute(0, 2, 3, 1)
    noisy = smooth + 0.1 * torch.randn(num, height, width, 3, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def only(**changes: object) -> AugmentRecipe:
    """A recipe with every random step switched off but those given, and no normalisation."""
    whole = replace(AugmentRecipe.weak(32), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), **RAW)
    return replace(whole, **changes)


def crop_and_resize(image: Tensor, params: AugmentParams, sample: int) -> Tensor:
    top, left = int(params.top[sample]), int(params.left[sample])
    height, width = int(params.crop_height[sample]), int(params.crop_width[sample])
    cut = image[top : top + height, left : left + width].permute(2, 0, 1)[None].double() / 255
    size = (params.recipe.size, params.recipe.size)
    return F.interpolate(cut, size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * other, 0, 1)


def luma(image: np.ndarray) -> np.ndarray:
    return np.tensordot([0.2989, 0.587, 0.114], image, axes=1)[None]


def turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    turned = np.empty_like(image)
    for index in np.ndindex(*image.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[:, *index])
        turned[:, *index] = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
    return turned


def one_by_one(images: Tensor, params: AugmentParams) -> Tensor:
    """The chain in float64, an image and a step at a time."""
    recipe, outputs = params.recipe, []
    for sample, image in enumerate(images):
        x = crop_and_resize(image, params, sample).numpy()
        for step in params.color_order[sample].tolist():
            factor = float(params.color_factors[sample, step])
            if step == 0:
                x = blend(x, np.zeros_like(x), factor)
            elif step == 1:
                x = blend(x, np.full_like(x, luma(x).mean()), factor)
            elif step == 2:
                x = blend(x, luma(x), factor)
            elif factor:
                x = turn_hue(x, factor)
        if params.grayscale[sample]:
            x = np.broadcast_to(luma(x), x.shape)
        if sigma := float(params.blur_sigma[sample]):
            for axis in (1, 2):
                x = gaussian_filter1d(x, sigma, axis=axis, mode="mirror", radius=recipe.blur_kernel_size // 2)
        if params.flip[sample]:
            x = x[:, :, ::-1]
        outputs.append((x - np.array(recipe.mean)[:, None, None]) / np.array(recipe.std)[:, None, None])
    return torch.from_numpy(np.stack(outputs))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 32), (256, 256, 224), (64, 64, 24), (20, 31, 48), (9, 300, 30), (8, 8, 32)],
)
def test_crop_and_resize_equal_interpolate(height: int, width: int, size: int) -> None:
    recipe = replace(AugmentRecipe.weak(size), crop_scale=(0.08, 1.0), **RAW)
    images = photos(12, height, width)
    params = draw_params(recipe, 1, torch.arange(12), 0, 0, height, width)
    expected = torch.stack([crop_and_resize(image, params, i) for i, image in enumerate(images)])
    torch.testing.assert_close(augment(images, params).double(), expected, rtol=0, atol=1e-6)


def test_strong_chain_equals_the_oracles_step_by_step() -> None:
    images = photos(48, 40, 40)
    params = draw_params(AugmentRecipe.strong(24), 7, torch.arange(48), 0, 0, 40, 40)
    assert params.grayscale.any()
    assert params.flip.any()
    assert params.blur_sigma.any()
    assert set(params.color_order[:, 0].tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(augment(images, params).double(), one_by_one(images, params), rtol=0, atol=2e-5)


def test_strong_chain_at_full_size() -> None:
    images = photos(2, 256, 256)
    params = draw_params(replace(AugmentRecipe.strong(), hue=0.0), 6, torch.arange(2), 0, 0, 256, 256)
    result = augment(images, params)
    assert result.shape == (2, 3, 224, 224)
    assert result.is_contiguous()
    torch.testing.assert_close(result.double(), one_by_one(images, params), rtol=0, atol=2e-5)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.25, 0.5])
def test_hue_equals_colorsys_also_at_ties_and_greys(turn: float) -> None:
    levels = torch.tensor([0, 0, 51, 128, 255], dtype=torch.uint8)
    colors = torch.cartesian_prod(levels, levels, levels)  # 125 colours, equal channels among them
    image = torch.cat([colors, colors.new_zeros(131, 3)]).view(1, 16, 16, 3)
    params = draw_params(only(size=16), 0, torch.tensor([0]), 0, 0, 16, 16)
    params = replace(params, color_factors=torch.tensor([[1.0, 1.0, 1.0, turn]]))
    expected = turn_hue(image[0].permute(2, 0, 1).double().numpy() / 255, turn)
    torch.testing.assert_close(augment(image, params)[0].double(), torch.from_numpy(expected), rtol=0, atol=2e-6)


def test_weak_recipe_without_crop_returns_the_image() -> None:
    images = photos(3, 32, 32)
    params = draw_params(only(), 9, torch.arange(3), 0, 0, 32, 32)
    torch.testing.assert_close(augment(images, params), images.permute(0, 3, 1, 2) / 255, rtol=0, atol=1e-7)


def test_flip_mirrors_left_to_right() -> None:
    images = photos(3, 32, 32)
    plain = draw_params(only(crop_scale=(0.3, 0.6)), 9, torch.arange(3), 0, 0, 32, 32)
    flipped = draw_params(only(crop_scale=(0.3, 0.6), flip_probability=1.0), 9, torch.arange(3), 0, 0, 32, 32)
    torch.testing.assert_close(augment(images, flipped), augment(images, plain).flip(3), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 60, 32), (8, 8, 32)])
def test_prepare_resizes_the_whole_image_and_normalises(height: int, width: int, size: int) -> None:
    images, recipe = photos(3, height, width), AugmentRecipe.strong(size)
    resized = F.interpolate(images.permute(0, 3, 1, 2) / 255, size=(size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (resized - mean) / std
    for backend in ("auto", "reference", "chunked"):
        torch.testing.assert_close(prepare(images, recipe, backend=backend), expected, rtol=0, atol=2e-5)
    half = prepare(images, recipe, dtype=torch.bfloat16)
    assert torch.equal(half, prepare(images, recipe).bfloat16())


def test_the_images_are_left_as_they_are() -> None:
    images = photos(5, 32, 32)
    before = images.clone()
    for backend in ("reference", "chunked"):
        augment(images, draw_params(AugmentRecipe.strong(32), 0, torch.arange(5), 0, 0, 32, 32), backend=backend)
    assert torch.equal(images, before)


def test_rejects_bad_input_by_name_and_value() -> None:
    recipe, images = AugmentRecipe.strong(32), photos(2, 32, 32)
    params = draw_params(recipe, 0, torch.arange(2), 0, 0, 32, 32)
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, 3\], got torch.float32"):
        augment(images.float(), params)
    with pytest.raises(ValueError, match="as many as the parameters, 2, got 1"):
        augment(images[:1], params)
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, 3\], got torch.uint8 \[2, 0, 32, 3\]"):
        prepare(images[:, :0], recipe)
    for other, found in ((photos(2, 32, 48), "32 x 48"), (photos(2, 64, 32), "64 x 32"), (photos(2, 8, 32), "8 x 32")):
        with pytest.raises(ValueError, match=f"the parameters were drawn for, 32 x 32, got {found}"):
            augment(other, params)
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.bfloat16, got torch.float16"):
        augment(images, params, dtype=torch.float16)
    with pytest.raises(ValueError, match="backend must be one of auto, reference, chunked, triton, got 'cuda'"):
        augment(images, params, backend="cuda")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    images = photos(16, 64, 64)
    params = draw_params(AugmentRecipe.strong(48), 5, torch.arange(16), 0, 0, 64, 64)
    torch.testing.assert_close(augment(images.cuda(), params).cpu(), augment(images, params), rtol=0, atol=2e-5)
