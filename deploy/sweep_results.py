"""What the arms of a sweep found: a table of means over seeds, the best value and what can be said of it.

The best value is chosen on the validation scans and reported on the test scans, which the choice has not seen. Arms of
one seed share prompts and noise, so values are compared seed by seed.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from penstock.telemetry.seed_interval import SeedInterval, seed_interval

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one finished arm measured; None where it did not."""

    value: str
    seed: int
    test: float | None
    """kNN accuracy on the rendered test scans, 0 to 1."""
    validation: float | None
    """The last one on the validation scans."""
    rankme: float | None
    """Effective rank of the features (arXiv 2210.02885)."""
    before: float | None
    """Test accuracy before training."""
    pixels: float | None
    """Test accuracy of pixels: the floor."""
    images: int
    """Images made."""
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A value's figures over its seeds."""

    value: str
    num_seeds: int
    test: SeedInterval | None
    validation: SeedInterval | None
    rankme: SeedInterval | None
    images: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The value with the highest mean on the validation scans."""

    row: Row
    place: Literal["inside", "lower edge", "upper edge", "unordered"]
    """Where it lies among the values; `unordered` where they are no numbers."""
    not_told_apart: tuple[str, ...]
    """Values whose difference from it, seed by seed, may be none: its 95% interval holds zero."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that a sweep found so far."""

    name: str
    """The setting."""
    rows: tuple[Row, ...]
    """In the order of the values: ascending where they are numbers."""
    best: Best | None
    """None where no arm was validated."""
    pixels: float | None
    """The floor that an encoder must pass."""
    before: float | None
    """The mean of all arms before training."""


def read_outcome(folder: Path, value: str, seed: int) -> Outcome | None:
    """What a finished arm left in its run folder; None where it has not finished."""
    summary = read_json(folder / "summary.json")
    if not isinstance(knn := summary.get("knn"), dict):
        return None
    record = read_json(folder / "checkpoint" / "state.json").get("record", {})
    curve = record.get("knn", [])
    return Outcome(
        value=value,
        seed=seed,
        test=knn.get("after"),
        validation=curve[-1][1] if curve else None,
        rankme=_find(summary, "rankme"),
        before=knn.get("before"),
        pixels=knn.get("pixels"),
        images=summary["images_generated"],
        steps=summary["steps"],
        seconds=summary["seconds"],
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or no whole one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _find(tree: Any, key: str) -> float | None:
    """The number called `key` wherever it stands: not every version of a summary has it, nor in the same place."""
    if not isinstance(tree, dict):
        return None
    if isinstance(tree.get(key), int | float):
        return float(tree[key])
    return next((found for branch in tree.values() if (found := _find(branch, key)) is not None), None)


def gather(name: str, values: Sequence[str], outcomes: Sequence[Outcome]) -> Results:
    """Put together what the finished arms found.

    Args:
        name: the setting.
        values: all of them; those without a finished arm get no row.
        outcomes: one an arm.
    """
    ordered = sorted(values, key=float) if _are_numbers(values) else list(values)
    by_value = {value: [outcome for outcome in outcomes if outcome.value == value] for value in ordered}
    rows = tuple(_row(value, found) for value, found in by_value.items() if found)
    befores = _known(outcome.before for outcome in outcomes)
    pixels = _known(outcome.pixels for outcome in outcomes)
    return Results(
        name=name,
        rows=rows,
        best=_choose(rows, ordered, outcomes),
        pixels=pixels[0] if pixels else None,
        before=sum(befores) / len(befores) if befores else None,
    )


def _row(value: str, found: Sequence[Outcome]) -> Row:
    return Row(
        value=value,
        num_seeds=len(found),
        test=_interval(outcome.test for outcome in found),
        validation=_interval(outcome.validation for outcome in found),
        rankme=_interval(outcome.rankme for outcome in found),
        images=sum(outcome.images for outcome in found) / len(found),
        seconds=sum(outcome.seconds for outcome in found) / len(found),
    )


def _choose(rows: Sequence[Row], ordered: Sequence[str], outcomes: Sequence[Outcome]) -> Best | None:
    validated = [(row.validation.mean, row) for row in rows if row.validation is not None]
    if not validated:
        return None
    _, row = max(validated, key=lambda pair: pair[0])
    place: Literal["inside", "lower edge", "upper edge", "unordered"] = "inside"
    if not _are_numbers(ordered):
        place = "unordered"
    elif row.value == ordered[0]:
        place = "lower edge"
    elif row.value == ordered[-1]:
        place = "upper edge"
    near = tuple(other.value for other in rows if other is not row and _may_be_equal(row.value, other.value, outcomes))
    return Best(row=row, place=place, not_told_apart=near)


def _may_be_equal(value: str, other: str, outcomes: Sequence[Outcome]) -> bool:
    """Whether the difference on the validation scans, over the seeds that both have, may be none."""
    ours, theirs = (
        {outcome.seed: outcome.validation for outcome in outcomes if outcome.value == name} for name in (value, other)
    )
    pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs.keys()]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) < 2:
        return False  # nothing is known of the spread; the table says so
    interval = seed_interval(differences)
    return interval.half_width is not None and interval.mean <= interval.half_width


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _interval(values: Iterable[float | None]) -> SeedInterval | None:
    known = _known(values)
    return seed_interval(known) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return all(float(value) == float(value) for value in values)
    except ValueError:
        return False
