"""Small image files whose pixels are known."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(value: int, height: int = 4, width: int = 6) -> NDArray[np.uint8]:
    """uint8 [height, width, 3], all `value` but its first row, which is `value + 1`."""
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[0] += 1
    return pixels


def png(value: int) -> bytes:
    """`picture(value)` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture(value)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, value: int) -> Path:
    """Write `picture(value)` to a path, whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))
    return path
