"""The report's first figures: what each part could do against what all did, and what more producers would bring."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from penstock.telemetry.profile.capacities import SPAN, SYMBOLS, Capacity
from penstock.telemetry.profile.figures import PALETTE, plain, svg
from penstock.telemetry.profile.prediction import Prediction
from penstock.telemetry.profile.summary import ProfileSummary
from penstock.telemetry.profile.text import REACH
from penstock.telemetry.profile.wording import number, per_s

_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
MAX_MARKED = 24
"""Predicted points that are marked on the line, at most."""


def capacities_figure(summary: ProfileSummary) -> str:
    """What each part could do alone, against what all together did."""
    parts = list(summary.capacities)
    reached = summary.achieved
    rows = [*parts, *([reached] if reached else [])]
    rates = [part.images_per_s for part in rows]
    reach = min(max(rates), REACH * min(rates))
    # A whisker that is cut would run through its bar's figure.
    end = max(part.images_per_s + (part.half_width or 0.0) for part in rows if part.images_per_s <= reach)
    end = max(reach, end) * 1.02 or 1.0

    def draw(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        plain(axes, "x")
        for place, part in enumerate(rows):
            _bar(axes, place, part, end, is_first=part.side in summary.verdict.sides or part is reached)
        axes.set_yticks(range(len(rows)), [_name(part, is_narrow) for part in rows])
        for label, part in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(PALETTE["ink"])
            label.set_fontweight("bold" if part.side in summary.verdict.sides or part is reached else "normal")
        axes.invert_yaxis()
        axes.set_xlim(0, end * (1.42 if is_narrow else 1.2))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(3 if is_narrow else 6))
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.set_xlabel("images trained on per second")
        if reached:
            axes.axvline(
                reached.images_per_s, color=PALETTE["together"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=3
            )

    alt = "Capacities, images/s: " + ", ".join(f"{_name(part, False)} {number(part.images_per_s)}" for part in parts)
    height = 0.75 + 0.47 * len(rates)
    return svg("capacities", alt, draw, height)


def _name(part: Capacity, is_narrow: bool) -> str:
    if part.side == "together":
        return "together" if is_narrow else "all together"
    return SYMBOLS[part.side] if is_narrow else f"{part.side}  {SYMBOLS[part.side]}"


def _bar(axes: Axes, place: int, part: Capacity, end: float, is_first: bool) -> None:
    rate = part.images_per_s
    shown = min(rate, end)
    axes.barh(place, shown, height=0.62, color=PALETTE[part.side], alpha=1.0 if is_first else 0.55, zorder=2)
    if part.half_width and rate <= end:
        axes.errorbar(rate, place, xerr=part.half_width, color=PALETTE["ink"], linewidth=1.2, capsize=3, zorder=4)
    beyond = " ▸" if rate > end else ""
    after = shown if rate > end else rate + (part.half_width or 0.0)
    text = f"{beyond} {number(rate)}"
    axes.annotate(text, (after, place), (4, 0), textcoords="offset points", va="center", color=PALETTE["ink"])


def prediction_figure(summary: ProfileSummary, prediction: Prediction) -> str:
    """Images/s against the number of producers, with the knee and what was measured."""
    counts = [point.producers for point in prediction.points]
    fine = np.linspace(0, counts[-1], 400)
    line = np.minimum(fine * prediction.images_per_s_each, prediction.ceiling) * prediction.efficiency
    is_held = fine * prediction.images_per_s_each >= prediction.ceiling
    band = SPAN * np.where(is_held, prediction.ceiling_error, prediction.error)

    def draw(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        plain(axes, "y")
        blue = PALETTE["producers"]
        axes.fill_between(fine, line * (1 - band), line * (1 + band), color=blue, alpha=0.15, linewidth=0)
        axes.plot(fine, line, color=blue, linewidth=2, label="predicted, with its 95% band")
        if len(counts) <= MAX_MARKED:
            axes.plot(counts, [point.images_per_s for point in prediction.points], "o", color=blue, markersize=4)
        _mark_knee(axes, prediction, is_narrow)
        _mark_measured(axes, summary, prediction)
        axes.set_xlim(0, counts[-1] * 1.02)
        axes.set_ylim(0, (line * (1 + band)).max() * 1.08)
        axes.xaxis.set_major_locator(MaxNLocator(6 if is_narrow else 12, integer=True))
        axes.yaxis.set_major_formatter(_THOUSANDS)
        axes.set_xlabel("producers")
        axes.set_ylabel("images trained on per second")
        columns = 1 if is_narrow else 3
        figure.legend(frameon=False, labelcolor=PALETTE["ink"], loc="outside upper left", fontsize=10, ncols=columns)

    first, most = per_s(prediction.at(1)), per_s(prediction.at(prediction.knee))
    alt = f"Predicted: {first} with one producer, {most} with {prediction.knee}, and no more beyond"
    return svg("prediction", alt, draw, 3.4, 3.4)


def _mark_knee(axes: Axes, prediction: Prediction, is_narrow: bool) -> None:
    axes.axvline(prediction.knee, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
    symbol = SYMBOLS[prediction.ceiling_side]
    words = f"{prediction.knee:,} {'is' if prediction.knee == 1 else 'are'} enough"
    words += "" if is_narrow else f": with more, {symbol} bounds"
    is_right = prediction.knee > 0.55 * prediction.points[-1].producers
    axes.annotate(
        words,
        (prediction.knee, 0),
        (-6 if is_right else 6, 8),
        textcoords="offset points",
        ha="right" if is_right else "left",
        color=PALETTE["muted"],
        fontsize=10,
    )


def _mark_measured(axes: Axes, summary: ProfileSummary, prediction: Prediction) -> None:
    if summary.achieved:
        place = (prediction.producers, summary.achieved.images_per_s)
        axes.plot(*place, "D", color=PALETTE["together"], markersize=9, label="measured, all together", zorder=5)
