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


def test_a_line_of_pixels_costs_no_more_than_the_frames_that_are_kept_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled: list[int] = []
    resize_image = Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        scaled.append(size[0] * size[1])
        return resize_image(image, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    line = np.zeros((1, 60_001, 3), np.uint8)
    line[:, 29_998:30_003] = 255  # the middle stays in the middle
    for image, frame in ((line, (32, 48)), (line.swapaxes(0, 1), (48, 32))):
        resized = resize(image, *frame)
        assert resized.shape == (*frame, 3)
        assert resized[frame[0] // 2, frame[1] // 2].tolist() == [255, 255, 255]
    assert max(scaled) <= 16 * 48 * 48


def test_the_cut_is_even_on_either_side() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    assert (resize(image, 10, 10) == 255).all()


def test_fine_stripes_become_grey_and_not_other_stripes() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::2] = 255
    np.testing.assert_allclose(resize(image, 16, 16)[:, 2:-2], 127.5, atol=2)
