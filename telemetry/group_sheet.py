"""Many groups on one sheet: each prompt beside its images, in columns, so that a whole step can be looked at."""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from penstock.telemetry.picture import INK, MUTED, join_images
from penstock.telemetry.sample_grid import fit

WRONG = "#b3261e"
"""Ink of what should not be so."""
ASPECT = 1.3
"""Width by height that a sheet comes near to."""
_DPI = 100
_MARGIN, _GUTTER, _ROW_GAP, _HEADER = 24, 36, 16, 74
"""Pixels around the sheet, between its columns, between its rows, and above them for the title."""
_TEXT_PX, _TEXT_GAP = 264, 16
"""Pixels of the prompts' column, and between it and the images."""
_LINE_CHARS, _LINE_PX = 36, 17
"""What fits into a line of `_TEXT_PX`, and its height."""
_MAX_LINES = 7
_PER_ROW = 10
"""Images side by side; more go below."""
_MANY_IMAGES = 400
_SIDES = (128, 64)
"""Longest side of an image on a sheet of few, and of many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetGroup:
    """One prompt with its images."""

    prompt: str
    note: str
    """A few words below the prompt."""
    images: npt.NDArray[np.uint8]
    """uint8 [m, H, W, 3]."""
    is_wrong: bool = False
    """Whether the note is one of alarm."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """A group as it is drawn."""

    lines: list[str]
    picture: npt.NDArray[np.uint8]
    group: SheetGroup

    @property
    def height(self) -> int:
        """Pixels, of text or images, whichever are higher."""
        return max(len(self.picture), (len(self.lines) + 1) * _LINE_PX)


def shrink(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images uint8 [m, H, W, 3] no larger than any sheet shows them, for whoever keeps many until they are drawn."""
    return fit("", images, _SIDES[0]) if max(images.shape[1:3]) > _SIDES[0] else images


def draw_sheet(
    title: str, subtitle: str, groups: Sequence[SheetGroup], *, is_wrong: bool = False
) -> npt.NDArray[np.uint8]:
    """The groups in order, down the first column, then the next.

    Args:
        title: what the sheet shows.
        subtitle: what is to be known of it.
        groups: at least one; images may differ in size and number.
        is_wrong: whether the subtitle is one of alarm.

    Returns:
        uint8 `[rows, columns, 3]`; no pixel of an image is smoothed, large images are averaged by whole factors.

    Raises:
        ValueError: no groups, or images of another shape or dtype.
    """
    if not groups:
        raise ValueError("groups must not be empty")
    side = _SIDES[sum(len(group.images) for group in groups) > _MANY_IMAGES]
    cells = [_cell(group, side) for group in groups]
    width = _TEXT_PX + _TEXT_GAP + max(cell.picture.shape[1] for cell in cells)
    columns = _columns(cells, width)
    heights = [sum(cell.height + _ROW_GAP for cell in column) for column in columns]
    sheet_width = 2 * _MARGIN + len(columns) * width + (len(columns) - 1) * _GUTTER
    sheet_height = _HEADER + max(heights) + _MARGIN
    sheet = _Sheet(sheet_width, sheet_height)
    sheet.write(_MARGIN, 30, title, size=14, weight="bold")
    sheet.write(_MARGIN, 50, subtitle, size=9.5, color=WRONG if is_wrong else MUTED)
    places = [
        (left, top, cell)
        for number, column in enumerate(columns)
        for left, top, cell in _placed(column, _MARGIN + number * (width + _GUTTER))
    ]
    for left, top, cell in places:
        for number, line in enumerate(cell.lines):
            sheet.write(left, top + (number + 1) * _LINE_PX - 4, line, size=9.5)
        note = top + (len(cell.lines) + 1) * _LINE_PX - 4
        sheet.write(left, note, cell.group.note, size=7.5, color=WRONG if cell.group.is_wrong else MUTED)
    drawn = sheet.pixels()
    for left, top, cell in places:
        rows, columns_ = cell.picture.shape[:2]
        drawn[top : top + rows, left + _TEXT_PX + _TEXT_GAP :][:, :columns_] = cell.picture
    return drawn


def _cell(group: SheetGroup, side: int) -> _Cell:
    images = fit(group.prompt, group.images, side)
    rows = [join_images(images[start : start + _PER_ROW]) for start in range(0, len(images), _PER_ROW)]
    width = rows[0].shape[1]
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    text = " ".join(group.prompt.split())
    lines = textwrap.wrap(text, _LINE_CHARS, max_lines=_MAX_LINES, placeholder=" …") or [""]
    return _Cell(lines, np.concatenate(padded)[:-4], group)


def _columns(cells: Sequence[_Cell], width: int) -> list[list[_Cell]]:
    """The cells in as many columns as bring the sheet nearest to its aspect; each about equally high."""
    total = sum(cell.height + _ROW_GAP for cell in cells)
    ratios = {
        num: (num * (width + _GUTTER)) / (_HEADER + total / num + _MARGIN) for num in range(1, min(len(cells), 64) + 1)
    }
    num = min(ratios, key=lambda num: abs(math.log(ratios[num] / ASPECT)))
    per_column = -(-len(cells) // num)
    return [list(cells[start : start + per_column]) for start in range(0, len(cells), per_column)]


def _placed(column: Sequence[_Cell], left: int) -> list[tuple[int, int, _Cell]]:
    """Each cell with its left and upper edge."""
    placed, top = [], _HEADER
    for cell in column:
        placed.append((left, top, cell))
        top += cell.height + _ROW_GAP
    return placed


class _Sheet:
    """White paper that texts are written on, in pixels from the upper left."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self._figure)  # no window, no global state

    def write(
        self, left: int, baseline: int, text: str, *, size: float, color: str = INK, weight: str = "normal"
    ) -> None:
        """One line of text."""
        # parse_math: a price in a caption is no formula.
        self._figure.text(
            left / self._width,
            1 - baseline / self._height,
            text,
            fontsize=size,
            color=color,
            fontweight=weight,
            va="baseline",
            parse_math=False,
        )

    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8 `[height, width, 3]`."""
        drawn = io.BytesIO()
        self._figure.savefig(drawn, format="raw")
        pixels = np.frombuffer(drawn.getvalue(), np.uint8).reshape(self._height, self._width, 4)
        return pixels[..., :3].copy()
