"""A group of images in a terminal: two pixels a cell, the upper as its upper half block, the lower as its ground."""

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from penstock.telemetry.run_view import GroupView
from penstock.telemetry.terminal.cells import DIM, TITLE, Block, fit, line
from penstock.telemetry.thumbnails import thumbnails


def sheet(group: GroupView, width: int, rows: int) -> Block:
    """The images of a group side by side, as many as fit, below their prompt: `rows` lines in all."""
    title = line(("NEWEST", TITLE), f"  {group.prompt}", (f"  {group.producer}", DIM))
    size = 2 * (rows - 1)
    most = (width + 1) // (size + 1)
    small = thumbnails(group.images, size, most)
    high = small.shape[1] - small.shape[1] % 2
    lines = [_pixels(small[:, y : y + 2]) for y in range(0, high, 2)]
    return [fit(title, width), *(fit(text, width) for text in lines)]


def _pixels(pair: NDArray[np.uint8]) -> Text:
    """Two rows of pixels of each image, uint8 [m, 2, w, 3], as a line of the terminal."""
    text = Text()
    for place, image in enumerate(pair):
        text.append(" " if place else "")
        for upper, lower in zip(image[0].tolist(), image[1].tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
    return text
