"""The table of faults: what was expected, what was seen, and how long the recovery took."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 120


@dataclass(slots=True)
class Row:
    """One fault."""

    fault: str
    order: str
    """`ticket`, `arrival`, or empty where the fault has nothing to do with it."""
    expected: str
    seen: str = ""
    recovery_s: float | None = None
    """From the fault to the first group that needed the recovery."""
    ok: bool = False


_COLUMNS = (("fault", 27), ("order", 7), ("expected", 34), ("seen", 33), ("s", 5), ("", 4))
_GAP = "  "


def render(rows: Iterable[Row]) -> str:
    """The table as text of at most `WIDTH` columns; a cell that is too long goes on below."""
    rows = list(rows)
    rule = _GAP.join("─" * width for _, width in _COLUMNS)
    lines = [_line([name for name, _ in _COLUMNS]), rule]
    for row in rows:
        seconds = "" if row.recovery_s is None else f"{row.recovery_s:5.1f}"
        cells = [row.fault, row.order, row.expected, row.seen, seconds, "ok" if row.ok else "MISS"]
        wrapped = [textwrap.wrap(cell, width) or [""] for cell, (_, width) in zip(cells, _COLUMNS, strict=True)]
        if seconds:
            wrapped[4] = [seconds]
        height = max(len(cell) for cell in wrapped)
        lines += [_line([cell[n] if n < len(cell) else "" for cell in wrapped]) for n in range(height)]
    missed = sum(not row.ok for row in rows)
    lines += [
        rule,
        f"{len(rows)} faults, {missed} missed; s: seconds from the fault to the first group that needed the recovery",
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return _GAP.join(f"{cell:{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True)).rstrip()
