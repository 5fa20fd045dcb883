"""One picture of a run: prompts with the images made for them, and what was learned from those meanwhile."""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter

from penstock.telemetry.summary import Summary

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e4e7eb"
LOSS_COLOR = "#2f6f9f"
KNN_COLOR = "#c2512f"
DPI = 150
PROMPT_CHARS = 80
"""What fits above a row; longer prompts are cut."""
GAP = 0.06
"""White between the images of a group, in parts of an image's width."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What was measured over the steps: (step, value) pairs in order."""

    loss: Sequence[tuple[int, float]]
    knn: Sequence[tuple[int, float]]
    """Accuracies, 0 to 1."""


def draw(
    path: Path,
    groups: Sequence[tuple[str, npt.NDArray[np.uint8]]],
    history: History,
    summary: Summary,
) -> int:
    """Draw a run as one PNG.

    Args:
        groups: prompts, each with its images, uint8 `[m, H, W, 3]`; about six look best.
        history: the curves.
        summary: gives the title and the pixel floor.

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: no groups, or images of another shape or dtype.
        OSError: `path` cannot be written.
    """
    if not groups:
        raise ValueError("groups must not be empty")
    for prompt, images in groups:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.size == 0:
            raise ValueError(f"images of {prompt!r} must be uint8 [m, H, W, 3], got {images.dtype} {images.shape}")
    figure = Figure(figsize=(12, max(4.6, 0.9 + 0.98 * len(groups))), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)  # no window, no global state
    title = f"{summary.images_generated:,} images made, {summary.images_trained:,} trained on, none kept"
    figure.text(0.022, 0.965, title, fontsize=14, fontweight="bold", color=INK, va="top")
    figure.text(0.978, 0.962, f"penstock · {summary.run_id}", fontsize=9.5, color=MUTED, va="top", ha="right")
    panels = figure.subfigures(2, 2, height_ratios=[0.07, 0.93], width_ratios=[0.56, 0.44])
    left, right = np.asarray(panels)[1]
    _draw_groups(left, groups)
    _draw_curves(right, history, summary)
    figure.savefig(path)
    return path.stat().st_size


def _draw_groups(figure: SubFigure, groups: Sequence[tuple[str, npt.NDArray[np.uint8]]]) -> None:
    """One row a prompt: its text above, its images side by side below."""
    rows = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.04, right=0.98, top=0.95, bottom=0.03, hspace=0.45)
    for (prompt, images), axes in zip(groups, rows, strict=True):
        text = textwrap.shorten(prompt, PROMPT_CHARS, placeholder=" …")
        # parse_math: a price in a caption is no formula.
        axes.set_title(text, loc="left", fontsize=11, color=INK, pad=4, parse_math=False)
        axes.imshow(join_images(images), interpolation="nearest", aspect="equal", resample=False)
        axes.set_anchor("W")
        axes.axis("off")


def join_images(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images uint8 `[m, H, W, 3]` side by side with white between: uint8 `[H, m·W + gaps, 3]`."""
    count, height, width, _ = images.shape
    gap = np.full((height, max(1, round(width * GAP)), 3), 255, dtype=np.uint8)
    pieces = [images[0]]
    for image in images[1:count]:
        pieces += [gap, image]
    return np.concatenate(pieces, axis=1)


def _draw_curves(figure: SubFigure, history: History, summary: Summary) -> None:
    """The kNN accuracy above, the loss below, over the same steps."""
    knn_axes, loss_axes = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [0.56, 0.44]})
    figure.subplots_adjust(left=0.12, right=0.95, top=0.92, bottom=0.11, hspace=0.32)
    _style(knn_axes, f"kNN accuracy on real handwriting never trained on (k = {summary.knn.k})")
    _curve(knn_axes, history.knn, KNN_COLOR, marker="o")
    if summary.knn.pixels is not None:
        knn_axes.axhline(summary.knn.pixels, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        label = f"raw pixels {summary.knn.pixels:.0%}"
        place = {"xy": (1, summary.knn.pixels), "xycoords": ("axes fraction", "data")}
        knn_axes.annotate(
            label, **place, xytext=(-4, 4), textcoords="offset points", ha="right", fontsize=9, color=MUTED
        )
    if history.knn:
        step, accuracy = history.knn[-1]
        above = accuracy < 0.9
        knn_axes.annotate(
            f"{accuracy:.1%}",
            (step, accuracy),
            xytext=(0, 8 if above else -16),
            textcoords="offset points",
            ha="right",
            fontsize=11,
            fontweight="bold",
            color=KNN_COLOR,
        )
    knn_axes.set_ylim(0, 1)
    knn_axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _style(loss_axes, "Loss")
    _curve(loss_axes, history.loss, LOSS_COLOR, marker="")
    loss_axes.set_xlabel("step", fontsize=9.5, color=INK)
    loss_axes.set_xlim(0, max(1, summary.steps))


def _curve(axes: Axes, points: Sequence[tuple[int, float]], color: str, marker: str) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=color, linewidth=1.8, marker=marker, markersize=4, clip_on=False)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
