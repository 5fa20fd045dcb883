"""The picture of a run: its parts, laid out for a terminal of any size from the smallest that it is drawn in.

What matters most stands above: how far the run is, the data's way with its queues, and what bounds it. Below come the
fleet, the curves and the log. A wide terminal has fleet and stages beside the curves.
"""

from collections.abc import Sequence

from rich.text import Text

from penstock.telemetry.run_view import RunView
from penstock.telemetry.terminal import sections
from penstock.telemetry.terminal.cells import Block, beside, fit

MIN_WIDTH, MIN_HEIGHT = 72, 20
"""Of a terminal that has room for the picture."""
_LOW, _HIGH = 23, 30
"""Lines below which the boxes are lower, and from which there are blank lines between the parts."""
_WIDE = 110
"""Cells from which the curves stand beside the fleet."""
_GAP = 3
_LEFT = 55
"""Percent of a wide terminal that fleet and stages take."""
_SHEET_ROWS = 10


def picture(view: RunView, width: int, height: int, sheet: Sequence[Text] = ()) -> Block:
    """The run in at most `height` lines of exactly `width` cells. Raises ValueError below MIN_WIDTH x MIN_HEIGHT.

    Args:
        view: the run.
        width, height: of the terminal.
        sheet: a group of images, drawn; shown where `has_room_for_sheet` says so.
    """
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        raise ValueError(f"a picture needs {MIN_WIDTH} x {MIN_HEIGHT} cells at least, got {width} x {height}")
    blank = [Text()] if height >= _HIGH else []
    top = [
        *sections.header(view, width),
        *blank,
        *sections.pipeline(view, width, 4 if height >= _LOW else 3),
        *sections.verdict(view, width),
        *blank,
    ]
    rest = height - len(top)
    parts = _wide(view, width, rest, sheet) if width >= _WIDE else _narrow(view, width, rest, bool(blank))
    return [fit(line, width) for line in [*top, *parts][:height]]


def has_room_for_sheet(width: int, height: int) -> bool:
    """Whether a terminal of this size shows a group of images: `sheet_size` says how large."""
    return width >= _WIDE and height >= _SHEET_ROWS + _HIGH


def sheet_size(width: int) -> tuple[int, int]:
    """Cells that a group of images may take, and lines."""
    return width - _GAP - width * _LEFT // 100, _SHEET_ROWS


def _narrow(view: RunView, width: int, height: int, is_high: bool) -> Block:
    blank = [Text()] if is_high else []
    height -= 2 * len(blank)
    num_events = max(2, (height - 2) // 4)
    num_fleet = max(2, min(max(1, len(view.producers)), (height - num_events - 3) // 2))
    rows = max(1, height - (1 + num_events) - (1 + num_fleet) - 1)
    half = (width - _GAP) // 2
    curves = beside(_loss(view, half, rows), _knn(view, width - half - _GAP, rows), half, _GAP, width)
    return [
        *sections.fleet(view, width, num_fleet),
        *blank,
        *curves,
        *blank,
        *sections.events(view, width, num_events),
    ]


def _wide(view: RunView, width: int, height: int, sheet: Sequence[Text]) -> Block:
    right_width, sheet_rows = sheet_size(width)
    left_width = width - _GAP - right_width
    lower = sheet_rows if sheet else max(5, height // 4)
    middle = height - lower - 1
    left = _fleet_and_stages(view, left_width, middle)
    upper = (middle - 3) // 2 if view.knn else middle - 3
    right = [*_loss(view, right_width, upper), Text(), *_knn(view, right_width, middle - 3 - upper)]
    log = sections.events(view, left_width if sheet else width, lower - 1)
    return [
        *beside([*left, *[Text()] * (middle - len(left))], right, left_width, _GAP, width),
        Text(),
        *(beside(log, sheet, left_width, _GAP, width) if sheet else log),
    ]


def _fleet_and_stages(view: RunView, width: int, height: int) -> Block:
    """Both tables, one below the other; where there is no room for all, each has its half at least."""
    num_fleet, num_stages = max(1, len(view.producers)), len(view.stages)
    if not num_stages:
        return sections.fleet(view, width, height - 1)
    room = height - 3
    if num_fleet + num_stages > room:
        num_fleet = min(num_fleet, max(room // 2, room - num_stages))
        num_stages = room - num_fleet
    return [*sections.fleet(view, width, num_fleet), Text(), *sections.stages(view, width, num_stages)]


def _loss(view: RunView, width: int, rows: int) -> Block:
    return sections.curve("LOSS", view.loss, width, rows, "green", "{:.3f}")


def _knn(view: RunView, width: int, rows: int) -> Block:
    return sections.curve("kNN", view.knn, width, rows, "magenta", "{:.1%}")
