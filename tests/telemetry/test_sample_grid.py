"""The grid of prompts and images: its tiles are the images, by whole factors, and every row has its prompt."""

import numpy as np
import pytest

from penstock.telemetry.sample_grid import LONGEST_SIDE, MARGIN, SHORTEST_SIDE, TEXT_WIDTH, draw_grid

LEFT = TEXT_WIDTH + MARGIN


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)


def test_small_images_are_repeated_and_nothing_is_smoothed() -> None:
    images = _random(3, 32, 32, 3)
    grid = draw_grid([("a fox", images)])
    assert grid.dtype == np.uint8
    tile = grid[MARGIN : MARGIN + 64, LEFT : LEFT + 64]
    np.testing.assert_array_equal(tile[::2, ::2], images[0])
    np.testing.assert_array_equal(tile[1::2, 1::2], images[0])
    gap = round(64 * 0.06)
    np.testing.assert_array_equal(grid[MARGIN : MARGIN + 64 : 2, LEFT + 64 + gap :][:, :64:2], images[1])


def test_large_images_are_the_means_of_blocks() -> None:
    images = _random(1, 512, 512, 3)
    grid = draw_grid([("a fox", images)])
    side = 512 // 3  # the least whole factor that brings 512 to at most 192
    assert side <= LONGEST_SIDE < 512 // 2
    mean = images[0, :3, :3].reshape(9, 3).mean(axis=0)
    np.testing.assert_array_equal(grid[MARGIN, LEFT], np.rint(mean))
    assert grid.shape == (side + 2 * MARGIN, TEXT_WIDTH + side + 2 * MARGIN, 3)


def test_groups_of_other_sizes_and_counts_lie_below_each_other() -> None:
    grid = draw_grid([("a", _random(2, 16, 16, 3)), ("b", _random(5, 100, 160, 3)), ("c", _random(1, 64, 64, 3))])
    assert grid.shape[0] == SHORTEST_SIDE + 100 + 64 + 4 * MARGIN
    assert (grid[:MARGIN] == 255).all()
    assert (grid[MARGIN + SHORTEST_SIDE :][:MARGIN] == 255).all()


def test_every_row_has_its_prompt_beside_it_and_not_over_its_images() -> None:
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    grid = draw_grid([("a handwritten seven " * 20, white), ("", white), ("a price of $5 and $", white)])
    rows = [grid[MARGIN + i * (64 + MARGIN) :][:64] for i in range(3)]
    inked = [bool((row[:, :TEXT_WIDTH] < 128).any()) for row in rows]
    assert inked == [True, False, True]
    assert (grid[:, LEFT:] == 255).all()
    assert (grid[:, :8] == 255).all()


def test_no_groups_and_what_is_no_image_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must not be empty"):
        draw_grid([])
    with pytest.raises(ValueError, match=r"images of 'a' must be uint8 \[m, H, W, 3\], got float64 \(1, 8, 8, 3\)"):
        draw_grid([("a", np.zeros((1, 8, 8, 3)))])
    with pytest.raises(ValueError, match="must be uint8"):
        draw_grid([("a", np.zeros((0, 8, 8, 3), np.uint8))])
