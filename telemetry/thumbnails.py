"""Small copies of images, cheap enough to be made while a run goes on."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

_TAKEN = 4
"""Pixels a side, at most, that make one."""


def thumbnails(images: NDArray[np.uint8], size: int, most: int) -> NDArray[np.uint8]:
    """The first images of a group, each at most `size` pixels high and wide; never enlarged, and always a copy.

    Every pixel is the mean of a few that stand evenly in its place, so that neither thin strokes vanish nor a large
    image takes long.

    Args:
        images: uint8 [m, H, W, 3].
        size: pixels of the longer side, at most.
        most: images at most.

    Returns:
        uint8 [min(m, most), h, w, 3].
    """
    images = images[:most]
    height, width = images.shape[1:3]
    factor = ceil(max(height, width) / size)
    if factor == 1:
        return images.copy()
    high, wide = min(factor, height), min(factor, width)
    cut = images[:, : height // high * high, : width // wide * wide]
    cells = cut.reshape(len(images), height // high, high, width // wide, wide, 3)
    picked = cells[:, :, :: ceil(high / _TAKEN), :, :: ceil(wide / _TAKEN)]
    mean: NDArray[np.uint8] = np.rint(picked.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return mean
