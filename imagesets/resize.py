"""Brings a photograph to the size that a run trains on."""

import numpy as np
from numpy.typing import NDArray

_LONGEST = 16
"""Frames that an image may be long. More is cut away before it is scaled: a line of 60,000 pixels, scaled until it is
as wide as a frame, would take gigabytes."""


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of an image, uint8 [H, W, 3] to uint8 [height, width, 3].

    It is scaled, bicubic with antialiasing, until it just covers the frame, and the rest is cut away evenly on either
    side: torchvision's `Resize` and `CenterCrop`, also for frames that are not square.
    """
    from PIL import Image

    image = _shorten(_shorten(image, height, width, axis=1), width, height, axis=0)
    rows, columns = image.shape[:2]
    if columns * height >= rows * width:
        scaled_rows, scaled_columns = height, max(width, columns * height // rows)
    else:
        scaled_rows, scaled_columns = max(height, rows * width // columns), width
    top, left = round((scaled_rows - height) / 2), round((scaled_columns - width) / 2)
    whole = Image.fromarray(image)
    if whole.size != (scaled_columns, scaled_rows):
        whole = whole.resize((scaled_columns, scaled_rows), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(whole)[top : top + height, left : left + width])


def _shorten(image: NDArray[np.uint8], across: int, along: int, axis: int) -> NDArray[np.uint8]:
    """The middle of an image that is too long in `axis`, for a frame of `along` pixels there, `across` in the other."""
    length, kept = image.shape[axis], max(1, _LONGEST * image.shape[1 - axis] * along // across)
    if length <= kept:
        return image
    first = (length - kept) // 2
    return image.take(range(first, first + kept), axis=axis)
