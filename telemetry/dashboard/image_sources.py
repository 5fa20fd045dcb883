"""A group's images as a page shows them: small, few, and in the text of the message itself.

A page that has them needs no further request, so it keeps showing them when the run has ended.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LONGEST_SIDE = 256
"""Pixels that an image has at most; larger ones are averaged."""
MAX_IMAGES = 12
"""Of a group; a page says how many more there are."""
_EXACT_SIDE = 64
"""Images up to this side are sent exactly, since a page shows their very pixels."""
_QUALITY = 84
"""Of WebP, 0 to 100."""


def image_sources(images: NDArray[np.uint8]) -> Sequence[str]:
    """The `src` of each of the first `MAX_IMAGES` images of uint8 [m, H, W, 3]."""
    return [_source(image) for image in images[:MAX_IMAGES]]


def _source(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX, reducing_gap=None)
    file = io.BytesIO()
    if max(picture.size) <= _EXACT_SIDE:
        kind = "png"
        picture.save(file, "PNG")
    else:
        kind = "webp"
        picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
