"""Small copies of images: within their bounds, true to what they show, and never a view."""

import numpy as np
import pytest

from penstock.telemetry.thumbnails import thumbnails


@pytest.mark.parametrize("shape", [(3, 64, 64, 3), (2, 512, 512, 3), (1, 300, 700, 3), (1, 1024, 3, 3), (40, 8, 8, 3)])
def test_thumbnails_stay_within_their_bounds_and_are_copies(shape: tuple[int, int, int, int]) -> None:
    images = np.full(shape, 77, dtype=np.uint8)
    small = thumbnails(images, 128, 16)
    assert len(small) == min(shape[0], 16)
    assert 0 < max(small.shape[1:3]) <= 128
    assert min(small.shape[1:3]) > 0
    assert np.all(small == 77)
    assert not np.shares_memory(small, images)


def test_a_pixel_is_the_mean_of_those_in_its_place() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    expected = images.reshape(2, 64, 4, 64, 4, 3).astype(np.float64).mean(axis=(2, 4))
    assert np.abs(thumbnails(images, 64, 16) - expected).max() <= 0.51


def test_a_large_image_keeps_its_brightness() -> None:
    """Of 8 x 8 pixels every other counts: the mean of a gradient is off by less than two steps of it."""
    ramp = np.broadcast_to(np.linspace(0, 255, 1024).astype(np.uint8)[None, None, :, None], (1, 1024, 1024, 3))
    small = thumbnails(ramp, 128, 1).astype(np.float64)
    expected = ramp.reshape(1, 128, 8, 128, 8, 3).mean(axis=(2, 4))
    assert np.abs(small - expected).max() < 2
