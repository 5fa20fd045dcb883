"""Prompts with the images made for them, as one image: what an experiment tracker shows of the stream."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from penstock.telemetry.picture import INK, join_images

SHORTEST_SIDE = 64
LONGEST_SIDE = 192
"""Pixels that an image has in the grid: smaller ones are repeated, larger ones averaged, by whole factors."""
TEXT_WIDTH = 320
"""Pixels of the column with the prompts, left of the images."""
PROMPT_CHARS = 200
MARGIN = 12
"""Pixels around and between the rows."""
_DPI = 100
_FONT_PT = 9
_LINE_CHARS = 46
"""Characters of `_FONT_PT` that fit into `TEXT_WIDTH`."""
_LINE_PX = 16


def draw_grid(groups: Sequence[tuple[str, npt.NDArray[np.uint8]]]) -> npt.NDArray[np.uint8]:
    """A row a group: its prompt, and beside it its images.

    Args:
        groups: prompts, each with its images, uint8 `[m, H, W, 3]`.

    Returns:
        uint8 `[rows, columns, 3]`; no pixel of an image is smoothed.

    Raises:
        ValueError: no groups, or images of another shape or dtype.
    """
    if not groups:
        raise ValueError("groups must not be empty")
    rows = [join_images(fit(prompt, images)) for prompt, images in groups]
    texts = [_wrap(prompt, row.shape[0]) for (prompt, _), row in zip(groups, rows, strict=True)]
    width = TEXT_WIDTH + max(row.shape[1] for row in rows) + 2 * MARGIN
    height = sum(row.shape[0] + MARGIN for row in rows) + MARGIN
    grid = _draw_texts(texts, [row.shape[0] for row in rows], width, height)
    top = MARGIN
    for row in rows:
        grid[top : top + row.shape[0], TEXT_WIDTH + MARGIN :][:, : row.shape[1]] = row
        top += row.shape[0] + MARGIN
    return grid


def fit(prompt: str, images: npt.NDArray[np.uint8], longest_side: int = LONGEST_SIDE) -> npt.NDArray[np.uint8]:
    """Images of a size to look at, uint8 `[m, h, w, 3]`, by repeating or averaging whole pixels.

    Raises ValueError for images of another shape or dtype.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.size == 0:
        raise ValueError(f"images of {prompt!r} must be uint8 [m, H, W, 3], got {images.dtype} {images.shape}")
    count, height, width, _ = images.shape
    if (longest := max(height, width)) > longest_side:
        factor = min(-(-longest // longest_side), height, width)
        rows, columns = height // factor, width // factor
        blocks = images[:, : rows * factor, : columns * factor].reshape(count, rows, factor, columns, factor, 3)
        means: npt.NDArray[np.uint8] = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
        return means
    factor = max(1, min(-(-SHORTEST_SIDE // min(height, width)), longest_side // longest))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _wrap(prompt: str, height: int) -> str:
    """The prompt in lines that fit beside a row of `height` pixels."""
    text = textwrap.shorten(prompt, PROMPT_CHARS, placeholder=" …")
    return textwrap.fill(text, _LINE_CHARS, max_lines=max(1, height // _LINE_PX), placeholder=" …")


def _draw_texts(texts: Sequence[str], heights: Sequence[int], width: int, height: int) -> npt.NDArray[np.uint8]:
    """White, uint8 `[height, width, 3]`, with a text in the middle of each row's height."""
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)  # no window, no global state
    top = MARGIN
    for text, row_height in zip(texts, heights, strict=True):
        y = 1 - (top + row_height / 2) / height
        # parse_math: a price in a caption is no formula.
        figure.text(MARGIN / width, y, text, fontsize=_FONT_PT, color=INK, va="center", parse_math=False)
        top += row_height + MARGIN
    drawn = io.BytesIO()
    figure.savefig(drawn, format="raw")
    pixels: npt.NDArray[np.uint8] = np.frombuffer(drawn.getvalue(), np.uint8).reshape(height, width, 4)
    return pixels[..., :3].copy()
