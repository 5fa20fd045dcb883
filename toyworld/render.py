"""Draws 8x8 scans as 32x32 colour images: dark ink on light, textured paper, in a wide range of poses.

The pose is what makes the toy world worth learning. With small shifts, nearest neighbours on raw pixels
already read the digits; with these ranges they fail on almost half of them, while a trained encoder does not.
Everything is a few numpy operations over the whole batch, and a pure function of its arguments and the
generator's state.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.toyworld.scans import Scans, Split, load_split

IMAGE_SIZE = 32

#: sRGB of inks and papers, 0..1. Inks are dark and papers nearly white: the more the colours vary, the longer a
#: small encoder takes to look past them at the shape. With colours twice as strong, a contrastive loss stayed at
#: chance for several hundred optimizer steps instead of about a hundred.
INKS: dict[str, tuple[float, float, float]] = {
    "black": (0.04, 0.04, 0.04),
    "dark blue": (0.03, 0.07, 0.28),
    "dark red": (0.28, 0.03, 0.04),
    "dark green": (0.02, 0.18, 0.06),
    "purple": (0.20, 0.04, 0.25),
    "brown": (0.20, 0.12, 0.03),
}
PAPERS: dict[str, tuple[float, float, float]] = {
    "white": (0.98, 0.98, 0.98),
    "grey": (0.89, 0.89, 0.89),
    "pink": (0.99, 0.89, 0.93),
    "yellow": (0.99, 0.97, 0.85),
    "light blue": (0.88, 0.94, 0.99),
    "light green": (0.89, 0.97, 0.89),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """Ranges of the free attributes; wider is harder for pixels and for the encoder alike."""

    max_angle: float = 0.3  # rotation, radians either way
    min_size: float = 0.48  # smallest side of the scan, as a share of the frame's
    max_size: float = 0.75  # largest side of the scan
    overhang: float = 0.09  # how far the scan's border may leave the frame, as a share of the frame
    tint: float = 0.02  # standard deviation of each colour channel about the named colour
    texture: float = 0.02  # standard deviation of the paper's low-frequency texture


POSE = Pose()


@dataclass(frozen=True, kw_only=True, slots=True)
class Styles:
    """How each of N scans is drawn.

    ink, paper: int64 [N], places in `INKS` and `PAPERS`. angle: float32 [N], radians. size: float32 [N],
    share of the frame. shift: float32 [N, 2], right and down, in frames.
    """

    ink: NDArray[np.int64]
    paper: NDArray[np.int64]
    angle: NDArray[np.float32]
    size: NDArray[np.float32]
    shift: NDArray[np.float32]


def draw_styles(num: int, rng: np.random.Generator, pose: Pose = POSE) -> Styles:
    """Random styles for `num` scans: colours uniform over the names, poses uniform over the ranges of `pose`.

    A small digit may wander further than a large one: the shift is bounded by the room that the size leaves.
    """
    size = rng.uniform(pose.min_size, pose.max_size, num)
    room = (1 - size) / 2 + pose.overhang
    return Styles(
        ink=rng.integers(len(INKS), size=num),
        paper=rng.integers(len(PAPERS), size=num),
        angle=rng.uniform(-pose.max_angle, pose.max_angle, num).astype(np.float32),
        size=size.astype(np.float32),
        shift=(rng.uniform(-1, 1, (num, 2)) * room[:, None]).astype(np.float32),
    )


def render(
    scans8: NDArray[np.float32], rng: np.random.Generator, styles: Styles, pose: Pose = POSE
) -> NDArray[np.uint8]:
    """Draws scans float32 [N, 8, 8] in the given styles as uint8 [N, 32, 32, 3].

    `rng` supplies what no style fixes: the tints about the named colours and the paper's texture.
    """
    num = len(scans8)
    alpha = _place(scans8, styles)[..., None]
    tint = rng.normal(0, pose.tint, (2, num, 1, 1, 3)).astype(np.float32)
    ink = _palette(INKS)[styles.ink][:, None, None] + tint[0]
    paper = _palette(PAPERS)[styles.paper][:, None, None] + tint[1]
    coarse = rng.normal(0, pose.texture, (num, 5, 5)).astype(np.float32)
    texture = (_ramp(5) @ coarse @ _ramp(5).T)[..., None]
    image = (paper + texture) * (1 - alpha) + ink * alpha
    drawn: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return drawn


def render_split(
    split: Split, repeats: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Draws each scan `repeats` times: images uint8 [N*repeats, 32, 32, 3], labels and scan ids int64."""
    rng = np.random.default_rng(seed)
    scans = load_split(split)
    rows = np.repeat(np.arange(len(scans)), repeats)
    images = render(scans.images[rows], rng, draw_styles(len(rows), rng))
    return images, scans.labels[rows], scans.ids[rows]


def split_styles(split: Split, repeats: int, seed: int) -> Styles:
    """How `render_split` draws the images that it returns for the same arguments, in their order."""
    return draw_styles(len(load_split(split)) * repeats, np.random.default_rng(seed))


def enlarge(split: Split) -> NDArray[np.uint8]:
    """The raw scans of a split, dark on white, enlarged bilinearly, else untouched: uint8 [N, 32, 32, 3]."""
    scans: Scans = load_split(split)
    ink = _ramp(8) @ scans.images @ _ramp(8).T
    return np.rint((1 - ink[..., None].repeat(3, axis=-1)) * 255).astype(np.uint8)


def _palette(colours: dict[str, tuple[float, float, float]]) -> NDArray[np.float32]:
    return np.array(list(colours.values()), np.float32)


def _ramp(coarse: int) -> NDArray[np.float32]:
    """Bilinear enlargement of `coarse` cells to the frame's pixels, as a matrix [IMAGE_SIZE, coarse]."""
    at = (np.arange(IMAGE_SIZE) + 0.5) * coarse / IMAGE_SIZE - 0.5
    at = at.clip(0, coarse - 1)
    distance = np.abs(at[:, None] - np.arange(coarse))
    weights: NDArray[np.float32] = np.maximum(0, 1 - distance).astype(np.float32)
    return weights


def _place(scans8: NDArray[np.float32], styles: Styles) -> NDArray[np.float32]:
    """Ink coverage in the frame, float32 [N, 32, 32]: turned, scaled, shifted, bilinearly sampled."""
    centre = (np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5) / IMAGE_SIZE - 0.5
    right = centre[None, None, :] - styles.shift[:, 0, None, None]
    down = centre[None, :, None] - styles.shift[:, 1, None, None]
    zoom = (8 / styles.size)[:, None, None]
    cos = np.cos(styles.angle)[:, None, None] * zoom
    sin = np.sin(styles.angle)[:, None, None] * zoom
    # One cell of empty paper around the scan lets the sampling fade out at its border; centres lie at k +
    # 0.5.
    column = (cos * right + sin * down + 4.5).clip(0, 8.999)
    row = (cos * down - sin * right + 4.5).clip(0, 8.999)
    padded = np.pad(scans8, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, along = column - left, row - top
    corner = top * 10 + left + (np.arange(len(scans8), dtype=np.int32) * 100)[:, None, None]
    upper = padded[corner] * (1 - across) + padded[corner + 1] * across
    lower = padded[corner + 10] * (1 - across) + padded[corner + 11] * across
    coverage: NDArray[np.float32] = upper * (1 - along) + lower * along
    return coverage
