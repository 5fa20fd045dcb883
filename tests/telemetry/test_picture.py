"""The picture: its tiles are the images, pixel for pixel, and its curves end where the figures do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from penstock.telemetry.picture import History, draw, join_images
from penstock.telemetry.summary import Summary

HISTORY = History(loss=[(1, 5.0), (300, 2.0), (600, 1.5)], knn=[(0, 0.15), (300, 0.8), (600, 0.885)])


def test_images_lie_side_by_side_unchanged() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 10, 3), dtype=np.uint8)
    joined = join_images(images)
    assert joined.shape == (8, 3 * 10 + 2, 3)
    for i in range(3):
        np.testing.assert_array_equal(joined[:, i * 11 : i * 11 + 10], images[i])


def test_tiles_are_crisp_and_the_file_is_as_large_as_it_says(
    tmp_path: Path, make_summary: Callable[..., Summary]
) -> None:
    # Checkerboards of two colours that appear nowhere else: any smoothing would make colours between them.
    board = np.where(np.indices((32, 32)).sum(0)[..., None] % 2, [255, 0, 255], [0, 255, 0]).astype(np.uint8)
    groups = [("a handwritten seven in dark blue ink on pink paper", np.stack([board] * 4))] * 6
    path = tmp_path / "picture.png"
    size = draw(path, groups, HISTORY, make_summary())
    assert size == path.stat().st_size < 1_000_000
    pixels = np.rint(imread(path)[..., :3] * 255).astype(int)
    height, width, _ = pixels.shape
    assert width >= 1600
    assert height >= 600
    magenta = (pixels == [255, 0, 255]).all(-1)
    green = (pixels == [0, 255, 0]).all(-1)
    assert min(magenta.sum(), green.sum()) > 6 * 4 * 32 * 32  # each pixel drawn as two or more
    mixed = (pixels[..., 0] == pixels[..., 2]) & (abs(pixels.sum(-1) - 382) < 60) & (abs(pixels[..., 0] - 127) < 60)
    assert mixed.sum() < 0.01 * magenta.sum()


def test_one_group_and_no_curves_make_a_picture_too(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    images = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    assert draw(tmp_path / "p.png", [("x", images)], History(loss=[], knn=[]), make_summary()) > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 3)), r"must be uint8 \[m, H, W, 3\], got float64 \(2, 32, 32, 3\)"),
        (np.zeros((32, 32, 3), np.uint8), r"got uint8 \(32, 32, 3\)"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"got uint8 \(0, 32, 32, 3\)"),
    ],
)
def test_what_is_not_an_image_is_refused(
    tmp_path: Path, images: np.ndarray, message: str, make_summary: Callable[..., Summary]
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "p.png", [("x", images)], HISTORY, make_summary())


def test_no_groups_are_refused(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    with pytest.raises(ValueError, match="groups must not be empty"):
        draw(tmp_path / "p.png", [], HISTORY, make_summary())


def test_a_price_in_a_prompt_is_no_formula(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    prompts = ["was $20 50% off now $10", "a \\frac of $x_{$"]
    size = draw(tmp_path / "p.png", [(prompt, images) for prompt in prompts], HISTORY, make_summary())
    assert size == (tmp_path / "p.png").stat().st_size
