"""The report's figures as SVG that takes the page's colours: by day, by night, and on a narrow screen.

Matplotlib writes colours into its SVG as numbers; each stands for a name of the page's style sheet, and is replaced by
it, so that one figure serves both schemes. Text stays text: it can be found, copied and read aloud. Every figure is
drawn twice, for wide and for narrow screens, and the style sheet shows one of them.
"""

import html
import io
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PALETTE: Final[Mapping[str, str]] = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "producers": "#040404",
    "wire": "#050505",
    "host": "#060606",
    "trainer": "#070707",
    "together": "#080808",
    "card": "#090909",
    "alarm": "#0a0a0a",
}
"""What matplotlib is given for each colour of the style sheet."""
WIDE_IN, NARROW_IN = 9.6, 4.2
"""Widths, inches at 72 px."""
STYLE = """
:root { --producers: #2f6f9f; --wire: #7a5ea8; --host: #8a6d1f; --trainer: #c2512f; --together: #2d6a4f; }
@media (prefers-color-scheme: dark) { :root { --producers: #6cb0e0; --wire: #b79be6; --host: #d9b452;
  --trainer: #ee8a68; --together: #7fc8a4; } }
.figure svg { display: block; width: 100%; height: auto; } .figure .narrow { display: none; }
@media (max-width: 620px) { .figure .wide { display: none; } .figure .narrow { display: block; } }
"""
_FONT: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "penstock",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "text.parse_math": False,
}
_METADATA: Final = dict.fromkeys(("Date", "Creator", "Format", "Type"))

Draw = Callable[[Figure, bool], None]
"""Draws into a figure; the truth value says whether it is the narrow one."""


def svg(name: str, alt: str, draw: Draw, height_in: float, narrow_height_in: float | None = None) -> str:
    """A figure as HTML.

    Args:
        name: of letters; what the identifiers within begin with, different for each figure of a page.
        alt: what it shows, for those who do not see it.
        draw: draws it.
        height_in: inches, where the width is `WIDE_IN`.
        narrow_height_in: where it is `NARROW_IN`; as `height_in` if left out.
    """
    wide = _svg(f"{name}w", draw, (WIDE_IN, height_in), is_narrow=False)
    narrow = _svg(f"{name}n", draw, (NARROW_IN, narrow_height_in or height_in), is_narrow=True)
    label = html.escape(alt)
    return (
        f'<div class="figure" role="img" aria-label="{label}"><div class="wide">{wide}</div>'
        f'<div class="narrow">{narrow}</div></div>'
    )


def plain(axes: Axes, grid: str | None = None) -> None:
    """Give axes the report's look; `grid` is `x`, `y` or None."""
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(PALETTE["line"])
    axes.tick_params(colors=PALETTE["muted"], labelsize=10, length=3, color=PALETTE["line"])
    axes.xaxis.label.set_color(PALETTE["muted"])
    axes.yaxis.label.set_color(PALETTE["muted"])
    if grid == "x":
        axes.xaxis.grid(True, color=PALETTE["line"], linewidth=0.8)
    elif grid == "y":
        axes.yaxis.grid(True, color=PALETTE["line"], linewidth=0.8)
    axes.set_axisbelow(True)


def _svg(name: str, draw: Draw, size_in: tuple[float, float], is_narrow: bool) -> str:
    with matplotlib.rc_context(_FONT):
        figure = Figure(figsize=size_in, layout="constrained")
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)  # no window, no global state
        draw(figure, is_narrow)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=_METADATA)
    return _inline(text.getvalue(), name)


def _inline(document: str, name: str) -> str:
    """The SVG element alone, its colours by name, its identifiers its own."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    for size in ("width", "height"):  # the page gives it
        element = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", element)
    for colour, number in PALETTE.items():
        element = element.replace(number, f"var(--{colour})")
    return element.strip()
