"""Images as they travel: raw, or each one as a JPEG for a link that is too slow for raw pixels.

At 512² and quality 92 a JPEG is a tenth of the pixels or less. It changes them, so a manifest says it. A JPEG is also a
program for its reader: 691 bytes can claim 65500² pixels, and 15 KB of one progressive scan said again and again cost a
second. So a reader first asks every image what it is (one baseline scan of exactly the size that was asked for), then
takes memory, then decodes, and refuses what ends early. Uses simplejpeg (libjpeg-turbo), which is imported only here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

RAW: Final = "raw"
JPEG: Final = "jpeg"

_SUBSAMPLING = "420"
_CHANNELS = 3
_COLOR_SPACES = ("YCbCr", "RGB")
_SOI, _EOI, _SOS, _SOF0 = 0xD8, 0xD9, 0xDA, 0xC0
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""


@dataclass(frozen=True, slots=True)
class CodedImages:
    """A group as one frame."""

    codec: str
    sizes: tuple[int, ...]
    """Bytes of each image's JPEG in `payload`, which holds them one after another; empty for raw."""
    payload: bytes | memoryview


def is_codec_name(name: str) -> bool:
    """Whether `name` says how an engine's images travel: `raw`, or `jpeg-Q` with a quality of 1 to 100."""
    return re.fullmatch(rf"{RAW}|{JPEG}-(?:[1-9][0-9]?|100)", name) is not None


def encode_images(images: NDArray[np.uint8], jpeg_quality: int | None) -> CodedImages:
    """A group for the wire; raw, without a copy, where no quality is given or where JPEG would not be smaller.

    Args:
        images: uint8 [m, H, W, 3], C order.
        jpeg_quality: 1 to 100; chroma is halved both ways (4:2:0).
    """
    if jpeg_quality is not None:
        import simplejpeg

        jpegs = [simplejpeg.encode_jpeg(image, jpeg_quality, "RGB", _SUBSAMPLING) for image in images]
        if sum(map(len, jpegs)) < images.nbytes:
            return CodedImages(JPEG, tuple(map(len, jpegs)), b"".join(jpegs))
    return CodedImages(RAW, (), images.data.cast("B"))


def decode_jpegs(payload: bytes | bytearray | memoryview, sizes: Sequence[int], shape: tuple[int, ...]) -> memoryview:
    """The pixels of a group of JPEGs that lie one after another: uint8, C order, of `shape`.

    Args:
        payload: the JPEGs.
        sizes: bytes of each; positive, m many, and in sum the payload's.
        shape: (m, H, W, 3), as it was asked for.

    Raises ValueError where an image is not a whole JPEG of that size; before memory is taken where its header says so.
    """
    import simplejpeg

    view = memoryview(payload).cast("B")
    jpegs = [view[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    for number, jpeg in enumerate(jpegs):
        if (what := _unfit(jpeg, height=shape[1], width=shape[2])) is not None:
            raise ValueError(f"image {number} of {len(jpegs)}: {what}")
    images = np.empty(shape, np.uint8)
    for number, jpeg in enumerate(jpegs):
        try:
            # Strict, which is the default: what ends early is an error and not a half-filled image.
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=images[number])
        except ValueError as error:
            raise ValueError(f"image {number} of {len(jpegs)}: {error}") from error
    return images.reshape(-1).data


def _unfit(jpeg: memoryview, *, height: int, width: int) -> str | None:
    """What the headers of one image say that was not asked for, or None. Decodes no pixel."""
    import simplejpeg

    try:
        claimed_height, claimed_width, color_space, _ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError as error:
        return str(error)
    if (claimed_height, claimed_width) != (height, width):
        return f"its header claims {claimed_height} × {claimed_width} pixels, the ticket asks for {height} × {width}"
    if color_space not in _COLOR_SPACES:
        return f"its colours are {color_space}, must be {' or '.join(_COLOR_SPACES)}"
    if not _is_one_baseline_scan(jpeg):
        return "it is no baseline JPEG of one scan; each scan more would cost a pass over the image"
    return None


def _is_one_baseline_scan(jpeg: memoryview) -> bool:
    """Whether a JPEG is sequential (SOF0) and its first scan holds all three components, so that none may follow."""
    is_baseline = False
    for marker, at in _segments(jpeg):
        if marker == _SOS:
            return is_baseline and jpeg[at + 2] == _CHANNELS
        if marker in _SOF:
            is_baseline = marker == _SOF0
    return False


def _segments(jpeg: memoryview) -> Iterator[tuple[int, int]]:
    """The markers up to the first scan, each with the place of its length (ITU-T T.81, B.1.1)."""
    at = 0
    while at + 4 < len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == _SOI or marker in _ALONE:
            at += 2
        elif marker == _EOI:
            return
        else:
            yield marker, at + 2
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
