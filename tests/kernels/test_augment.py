"""Augmentation against oracles written by others: torch's interpolate, colorsys, scipy's Gaussian filter."""

import colorsys
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from penstock.kernels.augment import AugmentParams, AugmentRecipe, augment, draw_params, prepare
from penstock.kernels.backends import Backend
from penstock.kernels.philox import philox4x32

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


def random_resized_crop(height: int, width: int) -> tuple[int, int]:
    """Height and width by RandomResizedCrop's published loop, with scale (.08, 1) and ratio (3/4, 4/3)."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return h, w
    return height, width


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
    torch.testing.assert_close(prepare(images, recipe), (resized - mean) / std, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("num", "height", "width", "size"), [(150, 32, 32, 32), (7, 300, 90, 60), (3, 20, 31, 257), (0, 32, 32, 32)]
)
def test_chunks_change_nothing(num: int, height: int, width: int, size: int) -> None:
    recipe = replace(AugmentRecipe.strong(size), downsample_probability=0.2, downsample_sizes=(7, 16))
    images = photos(max(num, 1), height, width)[:num]
    params = draw_params(recipe, 11, torch.arange(num), 0, 0, height, width)
    reference, chunked = (augment(images, params, backend=backend) for backend in ("reference", "chunked"))
    assert chunked.shape == (num, 3, size, size)
    torch.testing.assert_close(chunked, reference, rtol=0, atol=2e-5)
    assert torch.equal(augment(images, params), chunked)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_a_bfloat16_view_is_the_rounded_float32_view(backend: Backend) -> None:
    images = photos(9, 40, 40)
    params = draw_params(AugmentRecipe.strong(32), 3, torch.arange(9), 0, 0, 40, 40)
    half = augment(images, params, dtype=torch.bfloat16, backend=backend)
    assert torch.equal(half, augment(images, params, backend=backend).bfloat16())


def test_the_images_are_left_as_they_are() -> None:
    images = photos(5, 32, 32)
    before = images.clone()
    for backend in ("reference", "chunked"):
        augment(images, draw_params(AugmentRecipe.strong(32), 0, torch.arange(5), 0, 0, 32, 32), backend=backend)
    assert torch.equal(images, before)


def test_a_view_depends_on_its_keys_only() -> None:
    recipe, images = AugmentRecipe.strong(32), photos(8, 32, 32)
    ids = torch.tensor([5, -7, 2**62, 3, 2**33 + 5, 11, 12, 13])
    echoes, views = torch.arange(8) % 3, torch.arange(8) % 2
    whole = augment(images, draw_params(recipe, 42, ids, echoes, views, 32, 32))
    for sample in range(8):
        one = slice(sample, sample + 1)
        params = draw_params(recipe, 42, ids[one], int(echoes[sample]), int(views[sample]), 32, 32)
        torch.testing.assert_close(augment(images[one], params), whole[one], rtol=0, atol=2e-6)


def test_every_key_changes_the_draw() -> None:
    def crop(seed: int = 1, sample_id: int = 2, echo: int = 3, view: int = 4) -> list[float]:
        params = draw_params(AugmentRecipe.strong(), seed, torch.tensor([sample_id]), echo, view, 256, 256)
        return [*params.color_factors[0].tolist(), float(params.crop_height), float(params.top)]

    draws = [
        crop(),
        crop(seed=5),
        crop(seed=1 + 2**32),
        crop(sample_id=3),
        crop(sample_id=2 + 2**32),
        crop(echo=0),
    ]
    draws += [crop(view=5), crop(echo=4, view=3)]
    assert len({tuple(draw) for draw in draws}) == len(draws)
    assert crop() == crop()


def test_the_draws_stay_where_earlier_runs_have_them() -> None:
    """A view of an old run is made again from these places; nothing else says which number decides what."""
    seed, sample_id, echo, view = 2**40 + 3, 2**33 + 5, 6, 7
    counters = [[sample_id & 0xFFFFFFFF, sample_id >> 32, echo, view << 8 | block] for block in range(9)]
    words = philox4x32(torch.tensor(counters), torch.tensor([seed & 0xFFFFFFFF, seed >> 32]))
    number = ((words.double() + 0.5) / 2**32).flatten().tolist()

    def drawn(**changes: object) -> AugmentParams:
        recipe = replace(AugmentRecipe.strong(), **changes)
        return draw_params(recipe, seed, torch.tensor([sample_id]), echo, view, 256, 256)

    for place, name, decides in (
        (31, "grayscale_probability", "grayscale"),
        (32, "blur_probability", "blur_sigma"),
        (34, "flip_probability", "flip"),
        (35, "downsample_probability", "downsample"),
    ):
        assert getattr(drawn(**{name: number[place] + 1e-9}), decides).all(), name
        assert not getattr(drawn(**{name: number[place] - 1e-9}), decides).any(), name
    factors = drawn(jitter_probability=number[22] + 1e-9).color_factors[0].tolist()
    expected = [0.6 + 0.8 * number[23], 0.6 + 0.8 * number[24], 0.6 + 0.8 * number[25], 0.2 * number[26] - 0.1]
    assert factors == pytest.approx(expected)
    assert drawn(jitter_probability=number[22] - 1e-9).color_factors[0].tolist() == [1, 1, 1, 0]
    assert drawn().color_order[0].tolist() == sorted(range(4), key=number[27:31].__getitem__)
    assert drawn(blur_probability=1.0).blur_sigma.item() == pytest.approx(0.1 + 1.9 * number[33])
    params = drawn()
    area, ratio = 256**2 * (0.08 + 0.92 * number[0]), math.exp(math.log(3 / 4) + math.log(16 / 9) * number[10])
    assert params.crop_width.item() == round(math.sqrt(area * ratio))
    assert params.crop_height.item() == round(math.sqrt(area / ratio))
    assert params.top.item() == math.floor(number[20] * (257 - params.crop_height.item()))
    assert params.left.item() == math.floor(number[21] * (257 - params.crop_width.item()))


def test_draws_follow_the_recipe() -> None:
    num = 20_000
    random.seed(0)
    recipe = AugmentRecipe.strong()
    params = draw_params(recipe, 3, torch.arange(num), 0, 0, 256, 256)
    low, high = params.color_factors.amin(0), params.color_factors.amax(0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), rtol=0, atol=2e-3)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), rtol=0, atol=2e-3)
    shares = {
        "jitter": ((params.color_factors[:, 3] != 0), 0.8),
        "grayscale": (params.grayscale, 0.2),
        "blur": (params.blur_sigma > 0, 0.5),
        "flip": (params.flip, 0.5),
    }
    for name, (drawn, probability) in shares.items():
        assert drawn.double().mean().item() == pytest.approx(probability, abs=0.015), name
    assert params.color_order.sort(dim=1).values.unique(dim=0).tolist() == [[0, 1, 2, 3]]
    orders, counts = params.color_order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 0.8 * num / 24
    area = (params.crop_height * params.crop_width).double() / 256**2
    ratio = params.crop_width / params.crop_height
    assert 0.078 < area.min() < 0.09
    assert ratio.min() > 0.74
    assert ratio.max() < 1.36
    expected = [random_resized_crop(256, 256) for _ in range(num)]
    assert area.mean().item() == pytest.approx(np.mean([h * w for h, w in expected]) / 256**2, abs=0.01)
    assert area.std().item() == pytest.approx(np.std([h * w for h, w in expected]) / 256**2, abs=0.01)
    assert ratio.log().std().item() == pytest.approx(np.std([math.log(w / h) for h, w in expected]), abs=0.01)
    for first, extent in ((params.top, params.crop_height), (params.left, params.crop_width)):
        assert first.min() >= 0
        assert (first + extent).max() == 256
        position = (first / (256 - extent).clamp(min=1))[extent < 200]
        assert position.mean().item() == pytest.approx(0.5, abs=0.01)


def test_downsample_is_drawn_with_equal_sizes_and_moves_no_other_draw() -> None:
    num = 20_000
    recipe = AugmentRecipe(downsample_probability=0.05)
    params = draw_params(recipe, 3, torch.arange(num), 0, 0, 256, 256)
    sizes, counts = params.downsample.unique(return_counts=True)
    assert sizes.tolist() == [0, 64, 128]
    torch.testing.assert_close(counts / num, torch.tensor([0.95, 0.025, 0.025]), rtol=0, atol=0.005)
    without = draw_params(AugmentRecipe(), 3, torch.arange(num), 0, 0, 256, 256)
    assert not without.downsample.any()
    for name in ("top", "crop_width", "color_factors", "color_order", "grayscale", "blur_sigma", "flip"):
        assert torch.equal(getattr(params, name), getattr(without, name)), name


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_crop_that_never_fits_falls_back_to_the_centre(
    height: int, width: int, expected: tuple[int, int, int, int]
) -> None:
    recipe = replace(AugmentRecipe.weak(), crop_scale=(1.0, 1.0))
    params = draw_params(recipe, 3, torch.arange(4), 0, 0, height, width)
    for sample in range(4):
        drawn = (
            params.top[sample],
            params.left[sample],
            params.crop_height[sample],
            params.crop_width[sample],
        )
        assert tuple(map(int, drawn)) == expected


def test_rejects_bad_input_by_name_and_value() -> None:
    recipe, images = AugmentRecipe.strong(32), photos(2, 32, 32)
    params = draw_params(recipe, 0, torch.arange(2), 0, 0, 32, 32)
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, 3\], got torch.float32"):
        augment(images.float(), params)
    with pytest.raises(ValueError, match="as many as the parameters, 2, got 1"):
        augment(images[:1], params)
    with pytest.raises(ValueError, match="a crop exceeds their height, 8"):
        augment(images[:, :8], params)
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.bfloat16, got torch.float16"):
        augment(images, params, dtype=torch.float16)
    with pytest.raises(ValueError, match="backend must be one of auto, reference, chunked, triton, got 'cuda'"):
        augment(images, params, backend="cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"smaller than the images' shorter side, 64, got \(64, 128\)"):
        draw_params(AugmentRecipe(downsample_probability=0.1), 0, torch.arange(2), 0, 0, 64, 256)
    with pytest.raises(ValueError, match="sample_ids must be int64"):
        draw_params(recipe, 0, torch.zeros(2), 0, 0, 32, 32)
    with pytest.raises(ValueError, match=r"run_seed must lie in 0 \.\. 2\*\*64 - 1, got -1"):
        draw_params(recipe, -1, torch.arange(2), 0, 0, 32, 32)
    with pytest.raises(ValueError, match=r"views must lie in 0 \.\. 2\*\*24 - 1, got 16777216"):
        draw_params(recipe, 0, torch.arange(2), 0, 1 << 24, 32, 32)
    with pytest.raises(ValueError, match=r"echoes must lie in 0 \.\. 2\*\*32 - 1, got -2"):
        draw_params(recipe, 0, torch.arange(2), torch.tensor([0, -2]), 0, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be >= 1, got 0"),
        ({"flip_probability": 1.5}, r"flip_probability must lie in 0 \.\. 1, got 1.5"),
        ({"hue": 0.6}, r"hue must lie in 0 \.\. 0.5, got 0.6"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must hold 0 < low <= high <= 1"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must hold 0"),
        ({"blur_kernel_size": 4}, "blur_kernel_size must be odd"),
        (
            {"size": 11},
            r"blur_kernel_size must be < 2 \* size \(22\), as edges are mirrored once, got 23",
        ),
        ({"downsample_probability": -0.1}, r"downsample_probability must lie in 0 \.\. 1, got -0.1"),
        ({"downsample_sizes": ()}, r"downsample_sizes must be some numbers >= 1, got \(\)"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be > 0"),
    ],
)
def test_recipe_rejects_values_outside_their_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(AugmentRecipe.strong(), **change)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    images = photos(16, 64, 64)
    params = draw_params(AugmentRecipe.strong(48), 5, torch.arange(16), 0, 0, 64, 64)
    torch.testing.assert_close(augment(images.cuda(), params).cpu(), augment(images, params), rtol=0, atol=2e-5)
