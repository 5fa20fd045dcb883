"""Pieces of text that know their width: what the picture of a run is put together from.

A line is a rich `Text`; a block is a list of lines. Widths are cells of the terminal: some characters take two.
"""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

FULL, PROMISED, EMPTY = "━", "╍", "╌"
"""Of bars: what is there, what is on its way, and what is not."""
Block = list[Text]

DIM: Final = "dim"
TITLE: Final = "bold cyan"
GOOD: Final = "green"
CAREFUL: Final = "yellow"
BAD: Final = "red"
STRONG: Final = "bold"


def line(*pieces: str | tuple[str, str]) -> Text:
    """A line of pieces, each with its style where it has one."""
    return Text.assemble(*pieces, no_wrap=True, end="")


def fit(text: Text, width: int) -> Text:
    """A line of exactly `width` cells: cut with an ellipsis, or filled with blanks."""
    text = text.copy()
    text.truncate(max(0, width), overflow="ellipsis", pad=True)
    return text


def ends(left: Text, right: Text, width: int) -> Text:
    """One text at each end of a line; where there is no room for both, the left one is cut."""
    room = width - right.cell_len
    if room < 1:
        return fit(left, width)
    return fit(left, room).append_text(right)


def beside(left: Sequence[Text], right: Sequence[Text], left_width: int, gap: int, width: int) -> Block:
    """Two blocks beside each other, `width` wide in all."""
    height = max(len(left), len(right))
    right_width = width - left_width - gap
    blank = Text()
    return [
        fit(left[row] if row < len(left) else blank, left_width)
        .append(" " * gap)
        .append_text(fit(right[row] if row < len(right) else blank, right_width))
        for row in range(height)
    ]


def box(title: str, lines: Sequence[Text], width: int, style: str) -> Block:
    """Lines in a frame, with a title in its upper edge."""
    inner = width - 4
    top = line((f"╭─ {title} ", style), ("─" * max(0, width - 5 - len(title)) + "╮", style))
    rows = [line(("│ ", style)).append_text(fit(text, inner)).append(" │", style) for text in lines]
    return [fit(top, width), *rows, line(("╰" + "─" * (width - 2) + "╯", style))]


def bar(width: int, *shares: tuple[float, str, str]) -> Text:
    """A bar of `width` cells, of which each share, 0 to 1, takes its part from the left; the rest is empty.

    Args:
        width: of the bar.
        shares: how much, by which character, in which style.
    """
    text, used, total = Text(), 0, 0.0
    for share, char, style in shares:
        total += share
        # What is there at all can be seen, and what is not full does not look so.
        upto = min(width, max(used + (share > 0), round(total * width)))
        upto = min(upto, width - 1) if total < 1 else upto
        text.append(char * (upto - used), style)
        used = max(used, upto)
    return text.append(EMPTY * (width - used), DIM)


def seconds(value: float | None) -> str:
    """A duration in at most five characters or so: `31 ms`, `1.2 s`, `4:05`; `-` for none."""
    if value is None or value != value:  # NaN
        return "-"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 0.01:
        return f"{value * 1e3:.1f} ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 99.5 else clock(value)


def clock(value: float) -> str:
    """A duration as `4:05` or `1:02:03`."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def nbytes(value: float) -> str:
    """Bytes in at most six characters or so: `812 B`, `4.2 MB`, `126 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
