"""What an evaluation found, as a table for people and as JSON for the next program."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from penstock.consumer.evaluation.accuracy import Accuracy
from penstock.consumer.evaluation.few_shot import FewShot
from penstock.consumer.evaluation.intervals import Interval
from penstock.consumer.evaluation.linear_probe import Choice
from penstock.consumer.evaluation.rankme import Spread

SCHEMA_VERSION = 1
TABLE_WIDTH = 110
"""Columns of the table where the terminal has as many."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """The figures of one task; None where something was not measured, and `skipped` says why."""

    name: str
    num_bank: int
    """Images that test images are compared with."""
    num_fit: int
    """Images that the probe was trained on."""
    num_choosing: int
    """Images that its setting was chosen by."""
    num_test: int
    num_originals: int
    """Scans, or different images, that the test images show."""
    original: str
    """What these are."""
    num_known: int
    """Test images whose very pixels are among those that they are compared with or fitted to; they are left out there
    by kNN, and nowhere else."""
    spread: Spread
    """RankMe and mean cosine of the bank's features."""
    knn: Accuracy | None = None
    linear_probe: Accuracy | None = None
    choice: Choice | None = None
    """The setting of the linear probe."""
    few_shot: FewShot | None = None
    zero_shot: Accuracy | None = None
    templates: tuple[str, ...] = ()
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An evaluation."""

    schema_version: int = SCHEMA_VERSION
    encoder: str
    feature: str
    dim: int
    """Width of the features."""
    digest: str
    """Of the encoder's weights and configuration."""
    preprocessing: dict[str, Any]
    tasks: tuple[TaskReport, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    cache: dict[str, Any]
    """Hits and misses of this evaluation, and the folder's bytes after it."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the worst class and groups of every accuracy beside it."""
        values = dataclasses.asdict(self)
        for task, plain in zip(self.tasks, values["tasks"], strict=True):
            for name in ("knn", "linear_probe", "zero_shot"):
                if (accuracy := getattr(task, name)) is not None:
                    plain[name]["worst_class"] = dataclasses.asdict(accuracy.worst_class)
                    worst = {group: dataclasses.asdict(part) for group, part in accuracy.worst_groups.items()}
                    plain[name]["worst_groups"] = worst
        return values

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all. Raises OSError where `path` cannot be written."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False, default=str) + "\n"
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)


def draw_table(report: Report, width: int = TABLE_WIDTH) -> str:
    """The report as text of `width` columns, without colour."""
    text = io.StringIO()
    console = Console(
        file=text,
        width=width,
        color_system=None,
        force_terminal=False,
        legacy_windows=False,
        highlight=False,
        markup=False,  # names of classes and sets may hold brackets
        emoji=False,
    )
    who = f"{report.encoder}: {report.feature}, {report.dim} wide; weights {report.digest[:12]}"
    console.print(who)
    for task in report.tasks:
        console.print()
        console.print(_task_table(task, report.settings))
    cache = report.cache
    if cache["folder"] is not None:
        found = f"{cache['hits']} of {cache['hits'] + cache['misses']} feature sets were there already"
        console.print(f"cache: {found}; {cache['bytes'] / 1e6:,.1f} MB in {cache['folder']}")
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _task_table(task: TaskReport, settings: dict[str, Any]) -> Table:
    originals = f" of {task.num_originals} {task.original}s" if task.num_originals != task.num_test else ""
    title = f"{task.name}: {task.num_test} {settings['report_on']} images{originals}"
    table = Table(title=title, caption=_caption(task), title_justify="left", caption_justify="left", box=box.ROUNDED)
    for column in ("measure", "value", f"{settings['confidence']:.0%} interval", "how"):
        table.add_column(column, justify="left" if column in ("measure", "how") else "right")
    if task.knn:
        knn = settings["knn"]
        _add(table, "kNN", task.knn, f"k {knn['k']}, T {knn['temperature']:g}; {task.num_bank} images vote")
    if task.linear_probe and task.choice:
        _add(table, "linear probe", task.linear_probe, _chosen(task.choice, task.num_fit, task.num_choosing))
    if task.zero_shot:
        _add(table, "zero-shot", task.zero_shot, f"templates: {', '.join(task.templates)}")
    if task.few_shot:
        few = settings["few_shot"]
        how = f"{few['ways']}-way {few['shots']}-shot, {few['queries']} queries; {few['episodes']} episodes"
        table.add_row("few-shot", _percent(task.few_shot.accuracy), _bounds(task.few_shot.interval), how)
    share = task.spread.rankme / task.spread.max_rank
    how = f"{share:.0%} of the {task.spread.max_rank} possible; mean cosine {task.spread.mean_cosine:.3f}"
    table.add_row("RankMe", f"{task.spread.rankme:.1f}", "", how)
    for name, reason in task.skipped.items():
        table.add_row(name, "-", "", reason)
    return table


def _caption(task: TaskReport) -> str:
    """What the intervals are, and what else must be known."""
    methods = {measured.interval.method for measured in (task.knn, task.linear_probe, task.zero_shot) if measured}
    lines = [f"intervals: {', '.join(sorted(methods))}"] if methods else []
    if task.few_shot:
        lines.append("few-shot: over the draw of the episodes, not of the images")
    if task.num_known:
        lines.append(f"{task.num_known} of these images are among those that they are compared with or fitted to")
    return "\n".join(lines)


def _add(table: Table, name: str, accuracy: Accuracy, how: str) -> None:
    """A row for an accuracy, and below it those of its worst parts."""
    table.add_row(name, _percent(accuracy.accuracy), _bounds(accuracy.interval), how)
    for kind, part in {"class": accuracy.worst_class, **accuracy.worst_groups}.items():
        table.add_row(f"  worst {kind}", _percent(part.accuracy), "", f"{part.name}, {part.num} images")


def _chosen(choice: Choice, num_fit: int, num_choosing: int) -> str:
    norm = "BatchNorm" if choice.batch_norm else "no norm"
    edge = " (the grid's edge)" if choice.at_edge else ""
    return (
        f"{num_fit} images fitted; base lr {choice.learning_rate:g}{edge}, {norm} "
        f"chosen on {num_choosing} ({choice.val_accuracy:.1%})"
    )


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _bounds(interval: Interval) -> str:
    return f"{interval.low:.1%} .. {interval.high:.1%}"
