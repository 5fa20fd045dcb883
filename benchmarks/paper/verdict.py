"""What came of it: means over the seeds with intervals, paired differences, and which of the paper's orders hold here.

Intervals are 95% t-intervals over the seeds (Student 1908): they tell the luck of prompts, noise, weights and
augmentations. Differences are taken seed by seed, because arms of one seed share all of these.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from paper.arms import (
    CLIP,
    GROUP_SIZES,
    GUIDANCE_SCALES,
    SIMCLR,
    STABLEREP,
    STABLEREP_PLUS,
    SUPERVISED,
    SYNCLR,
    with_group_size,
    with_guidance,
)
from penstock.telemetry.seed_interval import seed_interval

RANDOM_INIT, PIXELS = "random init", "pixels"
MARGIN = 0.05
"""By how much StableRep is to lead SimCLR."""

Row = Mapping[str, Sequence[float]]
"""By the name of an arm, its accuracies, 0 to 1, seed by seed in one order."""

ORDERS: Sequence[tuple[str, str, str, float]] = (
    ("a", STABLEREP.name, SIMCLR.name, MARGIN),
    ("a", STABLEREP.name, RANDOM_INIT, 0.0),
    ("a", STABLEREP.name, PIXELS, 0.0),
    ("b", STABLEREP_PLUS.name, STABLEREP.name, 0.0),
    ("b", STABLEREP_PLUS.name, CLIP.name, 0.0),
    ("e", STABLEREP.name, SUPERVISED.name, 0.0),
    ("e", SYNCLR.name, SUPERVISED.name, 0.0),
)
"""What the papers found: in which table, which arm leads which other, by how much at least."""


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95% t-interval of the mean; None where there is one value."""
    return seed_interval(values).bounds


def summarise(rows: Row) -> dict[str, Any]:
    """`arms`, `differences`, `guidance`, `group_size` and `bars` of one measure; what was not run is left out."""
    return {
        "arms": {name: _mean(values) for name, values in rows.items()},
        "differences": _differences(rows),
        "guidance": {arm.objective: _curve(rows, _guided(arm.name)) for arm in (STABLEREP, SIMCLR)},
        "group_size": _curve(rows, {float(size): with_group_size(size).name for size in GROUP_SIZES}),
        "bars": _bars(rows),
    }


def _guided(name: str) -> dict[float, str]:
    arm = STABLEREP if name == STABLEREP.name else SIMCLR
    return {scale: with_guidance(arm, scale).name for scale in GUIDANCE_SCALES}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "interval": interval(values), "seeds": list(values)}


def _difference(rows: Row, ours: str, theirs: str) -> dict[str, Any]:
    return _mean([one - other for one, other in zip(rows[ours], rows[theirs], strict=True)])


def _differences(rows: Row) -> dict[str, Any]:
    pairs = [(ours, theirs) for _, ours, theirs, _ in ORDERS if ours in rows and theirs in rows]
    return {f"{ours} - {theirs}": _difference(rows, ours, theirs) for ours, theirs in pairs}


def _curve(rows: Row, names: Mapping[float, str]) -> dict[str, Any] | None:
    """Where the curve is highest, for the mean and for each seed, and how far above its ends, seed by seed.

    None where a point of it is missing.
    """
    if not all(name in rows for name in names.values()):
        return None
    points = {f"{value:g}": _mean(rows[name]) for value, name in names.items()}
    seeds = range(len(rows[next(iter(names.values()))]))
    by_seed = [max(names, key=lambda value: rows[names[value]][seed]) for seed in seeds]
    best = max(names, key=lambda value: statistics.fmean(rows[names[value]]))
    ends = {f"{end:g}": _difference(rows, names[best], names[end]) for end in (min(names), max(names))}
    return {"points": points, "best": best, "best_by_seed": by_seed, "best_above_ends": ends}


def _bars(rows: Row) -> list[dict[str, Any]]:
    """Which orders hold: `met` by the mean, `clear` where the whole interval of the difference says so."""
    bars = []
    for table, ours, theirs, margin in ORDERS:
        if ours not in rows or theirs not in rows:
            continue
        difference = _difference(rows, ours, theirs)
        bounds = difference["interval"]
        bars.append(
            {
                "table": table,
                "bar": f"{ours} above {theirs}" + (f" by {100 * margin:g} points" if margin else ""),
                "measured": difference["mean"],
                "interval": bounds,
                "met": difference["mean"] >= margin,
                "clear": None if bounds is None else bounds[0] >= margin or bounds[1] < margin,
            }
        )
    curve = _curve(rows, _guided(STABLEREP.name))
    if curve is not None:
        inside = GUIDANCE_SCALES[0] < curve["best"] < GUIDANCE_SCALES[-1]
        bar = "the best guidance of StableRep lies inside the range"
        bars.append({"table": "c", "bar": bar, "measured": curve["best"], "met": inside})
    return bars
