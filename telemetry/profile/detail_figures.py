"""The report's further figures: where steps, queues, groups and producers spend their time."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from penstock.telemetry.profile.capacities import HOST, PRODUCERS, TRAINER, WIRE
from penstock.telemetry.profile.figures import PALETTE, plain, svg
from penstock.telemetry.profile.measurements import Measurements, RankMeasured, Together
from penstock.telemetry.profile.wording import number

STEP_PARTS = {"wait_batch": "alarm", "augment": WIRE, "forward": PRODUCERS, "backward": TRAINER, "optimizer": HOST}
"""Parts of a step, in their order, and their colours."""
_QUEUES = {"tickets": PRODUCERS, "arrived": WIRE, "reservoir": HOST, "batches": TRAINER}
"""Colours."""
MAX_ROWS, MAX_COLUMNS = 32, 16
"""Producers and ranks that are drawn."""


def steps_figure(ranks: Sequence[RankMeasured]) -> str:
    """What a step's time goes to, a bar for each rank: mean seconds a step."""
    shown = [rank for rank in ranks if rank.stages.get("step")][:MAX_COLUMNS]

    def draw(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        plain(axes, "x")
        for place, rank in enumerate(shown):
            left = 0.0
            steps = rank.stages["step"].count or 1
            for stage, colour in STEP_PARTS.items():
                taken = rank.stages[stage].seconds / steps * 1e3 if stage in rank.stages else 0.0
                label = stage.replace("_", " ") if not place else None
                axes.barh(place, taken, left=left, height=0.6, color=PALETTE[colour], alpha=0.85, label=label)
                left += taken
        axes.set_yticks(range(len(shown)), [f"rank {rank.rank}" for rank in shown])
        axes.invert_yaxis()
        axes.set_xlabel("ms a step, mean")
        axes.spines["left"].set_visible(False)
        columns = 3 if is_narrow else len(STEP_PARTS)
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=PALETTE["ink"], fontsize=10)

    alt = "Mean time of a step by its parts, for each rank"
    return svg("steps", alt, draw, 1.25 + 0.4 * len(shown), 1.5 + 0.4 * len(shown))


def queues_figure(together: Together) -> str:
    """How full each queue was over time: empty behind the bottleneck, full before it."""
    queues = [queue for queue in together.queues if queue.filled and queue.capacity > 0]

    def draw(figure: Figure, is_narrow: bool) -> None:
        many = figure.subplots(len(queues), 1, sharex=True, squeeze=False)[:, 0]
        for axes, queue in zip(many, queues, strict=True):
            plain(axes)
            share = np.array(queue.filled) / queue.capacity
            colour = PALETTE[_QUEUES.get(queue.name, "muted")]
            axes.fill_between(together.sampled_at_s, share, step="post", color=colour, alpha=0.35, linewidth=0)
            axes.step(together.sampled_at_s, share, where="post", color=colour, linewidth=1)
            axes.set_ylim(0, max(1.02, float(share.max()) * 1.02))
            axes.set_yticks([0, 1])
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            mean = f"{queue.name}, mean {share.mean():.0%} of {queue.capacity:,}"
            axes.set_title(mean, loc="left", fontsize=10, color=PALETTE["ink"])
        many[-1].set_xlabel("s")

    alt = "How full each queue was: " + ", ".join(
        f"{queue.name} {sum(queue.filled) / len(queue.filled) / queue.capacity:.0%}" for queue in queues
    )
    return svg("queues", alt, draw, 0.5 + 0.95 * len(queues))


def uses_figure(together: Together) -> str:
    """How many groups were used how often."""

    def draw(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        plain(axes, "y")
        axes.bar(range(len(together.groups_by_uses)), together.groups_by_uses, color=PALETTE["host"], alpha=0.85)
        axes.xaxis.set_major_locator(MaxNLocator(6 if is_narrow else 12, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("uses so far")
        axes.set_ylabel("groups")

    return svg("uses", "Groups by how often they had been used", draw, 2.2)


def services_figure(measurements: Measurements, names: Sequence[str]) -> str:
    """Median time from a ticket's start to its group: these producers by rank."""
    ranks = sorted({service.rank for service in measurements.services})[:MAX_COLUMNS]
    values = np.full((len(names), len(ranks)), math.nan)
    for service in measurements.services:
        if service.producer in names and service.rank in ranks:
            values[names.index(service.producer), ranks.index(service.rank)] = service.p50_s * 1e3
    most = float(np.nanmax(values)) if (values > 0).any() else 1.0

    def draw(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        plain(axes)
        for row, column in np.ndindex(*values.shape):
            value = float(values[row, column])
            alpha = 0.08 + 0.72 * value / most if math.isfinite(value) else 0.0
            axes.add_patch(_cell(column, row, alpha))
            if len(ranks) <= (4 if is_narrow else 10):
                text = number(value) if math.isfinite(value) else "–"
                axes.annotate(text, (column, row), ha="center", va="center", color=PALETTE["ink"], fontsize=10)
        axes.set_xlim(-0.5, len(ranks) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_xlabel("rank")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    alt = "Median milliseconds from a ticket's start to its group, for each producer and rank"
    return svg("services", alt, draw, 0.7 + 0.36 * len(names))


def _cell(column: int, row: int, alpha: float) -> Rectangle:
    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=PALETTE[PRODUCERS], alpha=alpha, linewidth=0)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"
