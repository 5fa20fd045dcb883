"""What is drawn for an augmentation, and what a draw refuses."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from penstock.kernels.augment import AugmentParams, AugmentRecipe, draw_params
from penstock.kernels.philox import philox4x32

torch.set_num_threads(1)


def random_resized_crop(height: int, width: int) -> tuple[int, int]:
    """Height and width by RandomResizedCrop's published loop, with scale (.08, 1) and ratio (3/4, 4/3)."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return h, w
    return height, width


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


def test_a_run_seed_uses_all_of_its_64_bits() -> None:
    def drawn(seed: int) -> tuple[float, ...]:
        recipe = replace(AugmentRecipe.strong(), jitter_probability=1.0)
        return tuple(draw_params(recipe, seed, torch.tensor([3]), 0, 0, 256, 256).color_factors[0].tolist())

    seeds = [0, *(1 << bit for bit in range(64)), 2**64 - 1]
    assert len({drawn(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize(("name", "column"), [("brightness", 0), ("contrast", 1), ("saturation", 2)])
def test_strengths_above_1_reach_from_0_up(name: str, column: int) -> None:
    """ColorJitter's documented range is max(0, 1 - b) .. 1 + b: a negative factor would be a photo's negative."""
    recipe = replace(AugmentRecipe.strong(), jitter_probability=1.0, **{name: 1.5})
    factors = draw_params(recipe, 3, torch.arange(5_000), 0, 0, 64, 64).color_factors[:, column]
    assert 0 <= factors.min() < 0.01
    assert 2.49 < factors.max() <= 2.5
    assert factors.mean().item() == pytest.approx(1.25, abs=0.03)


def draw(**changes: object) -> AugmentParams:
    arguments = {"run_seed": 0, "sample_ids": torch.arange(2), "echoes": 0, "views": 0, "height": 32, "width": 32}
    return draw_params(AugmentRecipe.strong(32), **arguments | changes)


def test_a_draw_refuses_a_downsample_that_makes_nothing_smaller() -> None:
    with pytest.raises(ValueError, match=r"smaller than the images' shorter side, 64, got \(64, 128\)"):
        draw_params(AugmentRecipe(downsample_probability=0.1), 0, torch.arange(2), 0, 0, 64, 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_ids": torch.zeros(2)}, r"sample_ids must be int64 \[B\], got torch.float32 \[2\]"),
        (
            {"sample_ids": torch.zeros(2, 1, dtype=torch.int64)},
            r"sample_ids must be int64 \[B\], got torch.int64 \[2, 1\]",
        ),
        ({"run_seed": -1}, r"run_seed must lie in 0 \.\. 2\*\*64 - 1, got -1"),
        ({"run_seed": 2**64}, r"run_seed must lie in 0 \.\. 2\*\*64 - 1, got 18446744073709551616"),
        ({"views": 1 << 24}, r"views must lie in 0 \.\. 2\*\*24 - 1, got 16777216"),
        ({"views": 1 << 80}, r"views must lie in 0 \.\. 2\*\*24 - 1, got 1208925819614629174706176"),
        ({"echoes": torch.tensor([0, -2])}, r"echoes must lie in 0 \.\. 2\*\*32 - 1, got -2"),
        ({"echoes": torch.tensor([0.9, 0.9])}, r"echoes must be an int or int64 \[2\], got torch.float32 \[2\]"),
        ({"views": torch.tensor([True, False])}, r"views must be an int or int64 \[2\], got torch.bool \[2\]"),
        ({"views": torch.arange(3)}, r"views must be an int or int64 \[2\], got torch.int64 \[3\]"),
        ({"echoes": torch.arange(2)[:, None]}, r"echoes must be an int or int64 \[2\], got torch.int64 \[2, 1\]"),
        ({"height": 0}, "height must be >= 1, got 0"),
        ({"width": -3}, "width must be >= 1, got -3"),
    ],
)
def test_a_draw_rejects_a_bad_value_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**change)


@pytest.mark.parametrize("name", ["run_seed", "echoes", "views", "height", "width"])
@pytest.mark.parametrize("value", [0.9, 32.0, True, "1", None])
def test_a_draw_rejects_a_number_that_is_no_int(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, got {value!r}"):
        draw(**{name: value})


def test_a_draw_rejects_ids_that_are_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"sample_ids must be a tensor, int64 \[B\], got list"):
        draw(sample_ids=[1, 2])
