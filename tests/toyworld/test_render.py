import numpy as np
from numpy.typing import NDArray

from penstock.toyworld.render import (
    INKS,
    PAPERS,
    Pose,
    Styles,
    draw_styles,
    enlarge,
    render,
    render_split,
)
from penstock.toyworld.scans import load_split

BLACK, WHITE = list(INKS).index("black"), list(PAPERS).index("white")
PLAIN = Pose(tint=0, texture=0)


def upright(num: int, size: float = 1.0, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Styles:
    return Styles(
        ink=np.full(num, BLACK),
        paper=np.full(num, WHITE),
        angle=np.full(num, angle, np.float32),
        size=np.full(num, size, np.float32),
        shift=np.tile(np.array(shift, np.float32), (num, 1)),
    )


def ink_centre(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Centre of darkness (right, down) in frames, from the frame's middle."""
    ink = 255.0 - image.astype(float).mean(axis=2)
    ink -= ink.min()
    places = (np.arange(32) + 0.5) / 32 - 0.5
    return float((ink.sum(axis=0) * places).sum() / ink.sum()), float((ink.sum(axis=1) * places).sum() / ink.sum())


def dot(row: int, column: int) -> NDArray[np.float32]:
    scan = np.zeros((1, 8, 8), np.float32)
    scan[0, row, column] = 1
    return scan


def test_render_is_pure_in_its_seed() -> None:
    first, again, other = (render_split("val", 2, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != other[0]).mean() > 0.5


def test_render_split_draws_each_scan_as_often_as_asked() -> None:
    images, labels, ids = render_split("test", 3, 0)
    scans = load_split("test")
    assert images.shape == (3 * len(scans), 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(ids, return_counts=True)[1], 3)
    np.testing.assert_array_equal(labels[::3], scans.labels)


def test_ink_and_paper_have_the_named_colours() -> None:
    num = len(INKS) * len(PAPERS)
    styles = upright(num)
    styles.ink[:], styles.paper[:] = np.divmod(np.arange(num), len(PAPERS))
    half = np.zeros((num, 8, 8), np.float32)
    half[:, :, :4] = 1
    images = render(half, np.random.default_rng(0), styles, PLAIN) / 255
    np.testing.assert_allclose(images[:, 16, 8], np.array(list(INKS.values()))[styles.ink], atol=0.003)
    np.testing.assert_allclose(images[:, 16, 24], np.array(list(PAPERS.values()))[styles.paper], atol=0.003)


def test_every_ink_is_darker_than_every_paper() -> None:
    luma = np.array([0.299, 0.587, 0.114])
    assert max(luma @ ink for ink in INKS.values()) + 0.3 < min(luma @ paper for paper in PAPERS.values())


def test_shift_moves_right_and_down_by_shares_of_the_frame() -> None:
    scan = np.zeros((1, 8, 8), np.float32)
    scan[0, 3:5, 3:5] = 1
    image = render(scan, np.random.default_rng(0), upright(1, size=0.5, shift=(0.1, -0.2)), PLAIN)[0]
    np.testing.assert_allclose(ink_centre(image), (0.1, -0.2), atol=0.01)


def test_size_scales_about_the_middle() -> None:
    # Cell (4, 6) has its centre at (6.5 / 8 - 0.5, 4.5 / 8 - 0.5) of the scan, halved at half the size.
    image = render(dot(4, 6), np.random.default_rng(0), upright(1, size=0.5), PLAIN)[0]
    np.testing.assert_allclose(ink_centre(image), (0.15625, 0.03125), atol=0.01)


def test_positive_angle_turns_clockwise() -> None:
    image = render(dot(4, 6), np.random.default_rng(0), upright(1, size=0.5, angle=np.pi / 2), PLAIN)[0]
    np.testing.assert_allclose(ink_centre(image), (-0.03125, 0.15625), atol=0.01)


def test_digits_stay_mostly_inside_the_frame() -> None:
    scans = load_split("train").images
    styles = draw_styles(len(scans), np.random.default_rng(0))
    styles.ink[:], styles.paper[:] = BLACK, WHITE
    posed = 255.0 - render(scans, np.random.default_rng(0), styles, PLAIN).astype(float).mean(axis=(1, 2, 3))
    whole = upright(len(scans), size=0.5)
    centred = 255.0 - render(scans, np.random.default_rng(0), whole, PLAIN).astype(float).mean(axis=(1, 2, 3))
    paper = 5  # 255 minus white, rounded
    kept = (posed - paper) / ((centred - paper) * (styles.size / 0.5) ** 2)
    assert np.quantile(kept, 0.02) > 0.8


def test_enlarge_keeps_the_scans_grey_levels() -> None:
    images, scans = enlarge("test"), load_split("test").images
    assert images.shape == (len(scans), 32, 32, 3)
    # The mean of a bilinear enlargement by a whole factor, border repeated, is the scan's own mean.
    np.testing.assert_allclose(1 - images.mean(axis=(1, 2, 3)) / 255, scans.mean(axis=(1, 2)), atol=0.02)
    assert (images[..., 0] == images[..., 2]).all()
