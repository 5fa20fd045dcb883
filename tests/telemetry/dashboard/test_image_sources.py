"""Images in the text of a message: exact where they are small, bounded where they are not."""

import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from penstock.telemetry.dashboard.image_sources import LONGEST_SIDE, MAX_IMAGES, image_sources


def read(source: str) -> NDArray[np.uint8]:
    head, data = source.split(",")
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_small_images_are_sent_to_the_bit() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    assert [read(source).tolist() for source in image_sources(images)] == images.tolist()


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (300, 900), (1500, 400)])
def test_large_images_are_made_small_and_keep_their_shape_and_colours(height: int, width: int) -> None:
    colours = np.array([[200, 30, 90], [20, 140, 240]], dtype=np.uint8)
    images = np.broadcast_to(colours[:, None, None], (2, height, width, 3))
    for source, colour in zip(image_sources(images), colours, strict=True):
        shown = read(source)
        assert max(shown.shape[:2]) == LONGEST_SIDE
        assert shown.shape[1] / shown.shape[0] == pytest.approx(width / height, rel=0.02)
        assert np.abs(shown.astype(int) - colour).max() <= 6
        assert len(source) < 20_000


def test_of_many_images_the_first_are_sent() -> None:
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), dtype=np.uint8)
    assert [read(source)[0, 0, 0] for source in image_sources(images)] == list(range(MAX_IMAGES))
