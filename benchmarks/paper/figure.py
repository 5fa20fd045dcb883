"""The tables as one picture: objectives on equal images, the guidance curves, images a prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from paper.arms import CLIP, SIMCLR, STABLEREP, STABLEREP_PLUS, SUPERVISED, SYNCLR
from paper.verdict import PIXELS, RANDOM_INIT

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLORS = {STABLEREP.objective: "#c2512f", SIMCLR.objective: "#2f6f9f"}
LABELS = {STABLEREP.objective: "StableRep", SIMCLR.objective: "SimCLR"}
DPI = 110
PANELS = {"knn": "kNN", "linear_probe": "linear probe"}
OBJECTIVES = {
    "StableRep+": STABLEREP_PLUS.name,
    "StableRep": STABLEREP.name,
    "supervised": SUPERVISED.name,
    "CLIP": CLIP.name,
    "SimCLR": SIMCLR.name,
    "SynCLR": SYNCLR.name,
    "pixels": PIXELS,
    "random init": RANDOM_INIT,
}


def draw(path: Path, measured: Mapping[str, Any]) -> None:
    """Draw kNN and linear probe on rendered scans as PNG; every point with its seeds and interval. For `--full`."""
    figure = Figure(figsize=(11, 3.6 * len(PANELS)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(PANELS), 3, width_ratios=(1.15, 1.2, 0.9))
    for row, (measure, title) in zip(grid, PANELS.items(), strict=True):
        _row(*row, measured[measure], title)
    figure.suptitle("Held-out handwriting, rendered: dots are seeds, bars 95% intervals", color=INK, fontsize=10)
    figure.savefig(path, dpi=DPI)


def _row(objectives: Axes, guidance: Axes, sizes: Axes, measured: Mapping[str, Any], measure: str) -> None:
    """One measure."""
    _objectives(objectives, measured["arms"], f"(a, b, e) objectives at w = 2, m = 4: {measure}")
    _curves(guidance, measured["guidance"], "guidance scale w", f"(c) guidance: {measure}")
    _curves(sizes, {STABLEREP.objective: measured["group_size"]}, "images a prompt m", "(d) m, as many images in all")
    sizes.sharey(guidance)
    guidance.legend(frameon=False, fontsize=8)


def _objectives(axes: Axes, arms: Mapping[str, Any], title: str) -> None:
    names = [label for label, name in reversed(OBJECTIVES.items()) if name in arms]
    for place, label in enumerate(names):
        name = OBJECTIVES[label]
        color = COLORS.get(name.split()[0], MUTED if name in (PIXELS, RANDOM_INIT) else INK)
        _point(axes, arms[name], place, color, upright=False)
        _at_right(axes, f"{arms[name]['mean']:.1%}", place, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1.22)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _plain(axes, title)


def _curves(axes: Axes, curves: Mapping[str, Any], label: str, title: str) -> None:
    for name, curve in curves.items():
        points: Mapping[str, Any] = curve["points"]
        places = [float(value) for value in points]
        means = [point["mean"] for point in points.values()]
        axes.plot(places, means, color=COLORS[name], linewidth=1.5, label=LABELS[name])
        for place, point in zip(places, points.values(), strict=True):
            _point(axes, point, place, COLORS[name], upright=True)
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{value:g}" for value in places])
        axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(label, color=INK)
    _plain(axes, title)


def _point(axes: Axes, figures: Mapping[str, Any], place: float, color: str, *, upright: bool) -> None:
    """The mean with its interval, and the seeds as small dots."""

    def ways(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        along = [place] * len(values)
        return (along, values) if upright else (values, along)

    if figures["interval"]:
        axes.plot(*ways(figures["interval"]), color=color, linewidth=2.5, alpha=0.35, solid_capstyle="butt")
    axes.plot(*ways(figures["seeds"]), "o", color=color, markersize=2.5, alpha=0.6)
    axes.plot(*ways([figures["mean"]]), "o", color=color, markersize=5)


def _at_right(axes: Axes, text: str, height: float, *, color: str) -> None:
    where = ("axes fraction", "data")
    axes.annotate(text, (0.99, height), xycoords=where, ha="right", va="center", fontsize=8, color=color)


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, color=INK, fontsize=9, loc="left")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
