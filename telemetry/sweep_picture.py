"""The curve of a sweep: accuracy against the setting, with intervals over seeds, the best value and the floors."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from penstock.telemetry.picture import DPI, GRID, INK, KNN_COLOR, MUTED
from penstock.telemetry.seed_interval import SeedInterval

LOG_FACTOR = 8
"""Positive values that span about a decade, at least this factor, stand on a logarithmic axis."""
NOTE_CHARS = 135
"""What fits into a line below the axes."""
_NOTE_HEIGHT = 0.032


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value of the setting."""

    value: str
    test: SeedInterval
    validation: SeedInterval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCurve:
    """What is drawn."""

    name: str
    """The setting."""
    points: Sequence[Point]
    best: str | None
    """Its value."""
    floors: Sequence[tuple[str, float]]
    """Dashed lines with their names."""
    notes: Sequence[str]
    """Sentences below the axes."""

    @property
    def numbers(self) -> list[float] | None:
        """The values, if they are numbers; else they stand side by side and nothing lies between them."""
        try:
            return [float(point.value) for point in self.points]
        except ValueError:
            return None


def draw_sweep(path: Path, curve: SweepCurve) -> None:
    """Draw the curve as a PNG.

    Raises:
        ValueError: there is no point.
        OSError: `path` cannot be written.
    """
    if not curve.points:
        raise ValueError("points must not be empty")
    figure = Figure(figsize=(9, 5.6), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)  # no window, no global state
    axes = figure.subplots()
    notes = textwrap.wrap(" ".join(curve.notes), NOTE_CHARS)
    figure.subplots_adjust(left=0.085, right=0.865, top=0.86, bottom=0.145 + _NOTE_HEIGHT * len(notes))
    title = f"kNN accuracy on real handwriting never trained on, by {curve.name}"
    figure.text(0.022, 0.96, title, fontsize=13, fontweight="bold", color=INK, va="top", parse_math=False)
    for number, note in enumerate(reversed(notes)):
        figure.text(
            0.022, 0.025 + _NOTE_HEIGHT * number, note, fontsize=8.5, color=MUTED, va="bottom", parse_math=False
        )
    _style(axes)
    places = _place(axes, curve)
    line = "-" if curve.numbers else ""
    _draw_test(axes, places, curve.points, line)
    _draw_validation(axes, places, curve.points, line)
    _draw_floors(axes, curve.floors)
    if curve.best is not None:
        _mark(axes, places, curve)
    axes.set_xlabel(curve.name, fontsize=10, color=INK, parse_math=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path)


def _place(axes: Axes, curve: SweepCurve) -> list[float]:
    """Where each value stands on the x axis, which is set up for them: linear, logarithmic or by name."""
    places = curve.numbers or [float(place) for place in range(len(curve.points))]
    low, high = min(places), max(places)
    if curve.numbers and low > 0 and high / low >= LOG_FACTOR:
        axes.set_xscale("log")
        margin = (high / low) ** 0.06
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = (high - low) * (0.06 if curve.numbers else 0.2) or 1
        axes.set_xlim(low - margin, high + margin)
    axes.set_xticks(places, labels=[point.value for point in curve.points], parse_math=False)
    axes.xaxis.set_minor_locator(NullLocator())
    return places


def _draw_test(axes: Axes, places: Sequence[float], points: Sequence[Point], line: str) -> None:
    means = [point.test.mean for point in points]
    axes.plot(
        places, means, color=KNN_COLOR, linestyle=line, linewidth=1.8, marker="o", markersize=5, label="test", zorder=3
    )
    spread = [(place, point.test) for place, point in zip(places, points, strict=True)]
    for place, test in spread:
        if test.half_width is not None:
            axes.errorbar(place, test.mean, test.half_width, color=KNN_COLOR, linewidth=1.4, capsize=4, zorder=3)


def _draw_validation(axes: Axes, places: Sequence[float], points: Sequence[Point], line: str) -> None:
    known = [(place, point.validation.mean) for place, point in zip(places, points, strict=True) if point.validation]
    if known:
        xs, ys = zip(*known, strict=True)
        axes.plot(
            xs, ys, color=MUTED, linestyle=line, linewidth=1.2, marker="o", markersize=3, label="validation", zorder=2
        )


def _draw_floors(axes: Axes, floors: Sequence[tuple[str, float]]) -> None:
    for name, value in floors:
        axes.axhline(value, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{name}\n{value:.0%}",
            xy=(1, value),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=MUTED,
        )


def _mark(axes: Axes, places: Sequence[float], curve: SweepCurve) -> None:
    """A ring around the best point, and its figure beside it."""
    place, point = next(pair for pair in zip(places, curve.points, strict=True) if pair[1].value == curve.best)
    axes.plot(
        place,
        point.test.mean,
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=KNN_COLOR,
        markeredgewidth=1.6,
        zorder=4,
    )
    half_width = point.test.half_width
    text = f"{point.test.mean:.1%}" + (f" ± {100 * half_width:.1f}" if half_width is not None else "")
    reach = half_width or 0.0
    above = point.test.mean + reach < 0.88
    y = point.test.mean + reach if above else point.test.mean - reach
    axes.annotate(
        text,
        (place, y),
        xytext=(0, 12 if above else -12),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=11,
        fontweight="bold",
        color=KNN_COLOR,
        zorder=5,
    )


def _style(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
