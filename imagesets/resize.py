"""Brings a photograph to the size that a run trains on."""

import numpy as np
from numpy.typing import NDArray


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of an image, uint8 [H, W, 3] to uint8 [height, width, 3].

    It is scaled, bicubic with antialiasing, until it just covers the frame, and the rest is cut away evenly on either
    side: torchvision's `Resize` and `CenterCrop`, also for frames that are not square.
    """
    from PIL import Image

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
