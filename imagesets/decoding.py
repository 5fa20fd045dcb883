"""From a file's bytes to RGB, by Pillow."""

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""What counts as an image file, in lower case."""


def decode_image(encoded: bytes) -> NDArray[np.uint8]:
    """An image file's pixels, turned as its EXIF says: uint8 [H, W, 3]. What is transparent shows white.

    Raises ValueError where these are not an image's bytes, or where it is too large to be one (Pillow's limit).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    broken = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
    try:
        with warnings.catch_warnings():
            # Broken EXIF and large images: the pixels tell whether it can be used.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                image.load()
                pixels = np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError as error:
        raise ValueError(f"its {len(encoded)} bytes are no image that Pillow knows") from error
    except (*broken, Image.DecompressionBombError) as error:
        raise ValueError(f"it does not decode: {error}") from error
    return pixels


def _as_rgb(image: "Image.Image") -> "Image.Image":
    """An image of any of Pillow's modes as RGB."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit grey off at 255, and all of it would be white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return image.convert("RGB")
