import numpy as np
import pytest
from PIL import Image

from penstock.imagesets.resize import resize


def gradient(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grows from left to right by 2 and downwards by 3."""
    y, x = np.mgrid[0:height, 0:width]
    return np.clip(2 * x + 3 * y, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def test_an_image_of_the_size_is_left_alone() -> None:
    image = gradient(8, 12)
    np.testing.assert_array_equal(resize(image, 8, 12), image)


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (33, 33), (200, 20)])
def test_a_square_is_the_middle_of_the_shorter_side_scaled(height: int, width: int) -> None:
    # torchvision: Resize(16, bicubic, antialias) and CenterCrop(16).
    image = gradient(height, width)
    short, long = min(height, width), max(height, width)
    scaled = int(16 * long / short)
    size = (16, scaled) if width < height else (scaled, 16)
    whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    start = round((scaled - 16) / 2.0)
    expected = whole[start : start + 16] if width < height else whole[:, start : start + 16]
    np.testing.assert_array_equal(resize(image, 16, 16), expected)


@pytest.mark.parametrize(("height", "width"), [(7, 31), (31, 7), (1, 1), (100, 3), (16, 24)])
def test_any_image_fills_any_frame(height: int, width: int) -> None:
    resized = resize(np.full((height, width, 3), 77, np.uint8), 16, 24)
    assert resized.shape == (16, 24, 3)
    assert resized.dtype == np.uint8
    assert (resized == 77).all()


def test_the_cut_is_even_on_either_side() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    assert (resize(image, 10, 10) == 255).all()


def test_fine_stripes_become_grey_and_not_other_stripes() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::2] = 255
    np.testing.assert_allclose(resize(image, 16, 16)[:, 2:-2], 127.5, atol=2)
