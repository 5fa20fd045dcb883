"""Curves in a terminal, from braille characters: each has 2 x 4 dots, so a curve is finer than its cells."""

from collections.abc import Sequence

import numpy as np

_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of the dot in column x and row y of a character, rows from above (Unicode, Braille Patterns)."""


def draw(
    points: Sequence[tuple[int, float]], columns: int, rows: int, low: float, high: float, last_x: int
) -> list[str]:
    """A curve through points, as `rows` strings of `columns` characters.

    Args:
        points: (x, y), x rising; where several share a column of dots, their mean is drawn.
        columns, rows: of characters, 1 at least.
        low, high: y at the lower and the upper edge; what lies beyond is drawn at the edge.
        last_x: x at the right edge; the left edge is that of the first point.
    """
    cells = [[_BLANK] * columns for _ in range(rows)]
    if points:
        heights = _heights(points, 2 * columns, last_x)
        span = (high - low) or 1.0
        before: int | None = None
        for x, y in enumerate(heights):
            if np.isnan(y):
                continue
            level = round(float(np.clip((y - low) / span, 0, 1)) * (4 * rows - 1))
            # Steep pieces have no gaps: a column reaches as far as the one before.
            reach = level if before is None else before + (level > before) - (level < before)
            for dot in range(min(level, reach), max(level, reach) + 1):
                row, part = divmod(4 * rows - 1 - dot, 4)
                cells[row][x // 2] |= _DOTS[x % 2][part]
            before = level
    return ["".join(map(chr, row)) for row in cells]


def _heights(points: Sequence[tuple[int, float]], num_dots: int, last_x: int) -> np.ndarray:
    """Y in each column of dots; between points a straight line, NaN behind the last. float64 [num_dots]."""
    xs = np.array([x for x, _ in points], dtype=np.float64)
    ys = np.array([y for _, y in points], dtype=np.float64)
    width = max(last_x - xs[0], 1.0)
    places = np.minimum(((xs - xs[0]) / width * (num_dots - 1)).round().astype(np.int64), num_dots - 1)
    counts = np.bincount(places, minlength=num_dots)
    means = np.bincount(places, ys, minlength=num_dots) / np.maximum(counts, 1)
    taken = np.flatnonzero(counts)
    return np.interp(np.arange(num_dots), taken, means[taken], right=np.nan)
