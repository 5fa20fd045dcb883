"""What an audit found, as JSON for the next program and as a table for people."""

import dataclasses
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from penstock.deploy.audit_shares import CONFIDENCE, FEW_GROUPS, AttributeShares, Estimate, ValueShares
from penstock.deploy.audit_worst import WorstGroups

SCHEMA_VERSION = 1
TABLE_WIDTH = 120
"""Columns of the table where the terminal has as many."""
MAX_ROWS = 30
"""Values of an attribute that a table shows; the JSON has all."""
TRUSTED = 0.8
"""Share of known images that a scorer must read rightly for its word to count."""
_ORDER = {"under": 0, "over": 1, "as asked": 2, "misread": 3, "too few": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """An audit of one run."""

    schema_version: int = SCHEMA_VERSION
    run: str
    """Name of its folder."""
    num_groups: int
    """That were generated, and whose prompts are counted."""
    num_uses: int
    num_real_groups: int
    """Left out."""
    num_concepts: int
    """Concepts that the ledger names."""
    num_sampled_groups: int
    """Made again and looked at, drawn evenly."""
    num_images: int
    matching: int
    """Of the groups that were made again, those with the ledger's checksum."""
    differing: int
    scorer: str
    scorer_digest: str
    scorer_accuracy: dict[str, float] = field(default_factory=dict)
    """By attribute the share of known images that the scorer reads rightly; empty where none are known."""
    seed: int
    attributes: tuple[AttributeShares, ...]
    worst_groups: tuple[WorstGroups, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    """What was not done, and why."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As JSON text."""
        values: dict[str, Any] = dataclasses.asdict(self)
        for told, each in zip(values["worst_groups"], self.worst_groups, strict=True):
            told["gap"] = each.gap
        return json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def findings(report: AuditReport) -> Iterator[str]:
    """What stands out, a sentence each; none where nothing does."""
    for attribute in report.attributes:
        if report.scorer_accuracy.get(attribute.name, 1.0) < TRUSTED:
            continue
        for value in sorted(attribute.values, key=_how_far):
            if value.verdict in ("over", "under"):
                yield (
                    f"{attribute.name}: {value.name} is shown {_times(value.ratio)} as often as prompts ask for it "
                    f"({value.sampled_groups} groups)"
                )
        yield from _open_findings(attribute)
    for worst in report.worst_groups:
        part = worst.classes[0]
        yield (
            f"{worst.name}: {part.name} is read worst, {part.accuracy:.1%} of {part.num_images} images, "
            f"{100 * worst.gap:.1f} points below the whole"
        )


def doubts(report: AuditReport) -> Iterator[str]:
    """How far the scorer can be trusted, a sentence an attribute, where that is known."""
    for name, accuracy in report.scorer_accuracy.items():
        reads = f"{name}: the scorer reads {accuracy:.0%} of known images rightly"
        yield reads + ("; what it sees says more of itself than of the run" if accuracy < TRUSTED else "")


def _open_findings(attribute: AttributeShares) -> Iterator[str]:
    """The value that the generator prefers where prompts leave it open."""
    even = 1 / len(attribute.values)
    low = [(value.free_share.low or 0.0, value) for value in attribute.values]
    most, value = max(low, key=lambda pair: pair[0])
    if attribute.sampled_free >= FEW_GROUPS and most > even:
        yield (
            f"{attribute.name}: where prompts leave it open, {percent(value.free_share)} of images show {value.name}; "
            f"even would be {even:.0%}"
        )


def _how_far(value: ValueShares) -> float:
    """Furthest from 1 first."""
    ratio = value.ratio.value or 0.0
    return ratio if ratio < 1 else 1 / ratio


def ordered(attribute: AttributeShares) -> list[ValueShares]:
    """The values that stand out first, of those like them the ones that prompts name most."""
    return sorted(attribute.values, key=lambda value: (_ORDER[value.verdict], -value.prompt_groups))


def percent(estimate: Estimate) -> str:
    """`41% (35-48)`."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.value:.0%} ({100 * estimate.low:.0f}-{100 * estimate.high:.0f})"


def share(value: float | None) -> str:
    """`12.5%`."""
    return "-" if value is None else f"{value:.1%}"


def _times(ratio: Estimate) -> str:
    """`0.41 times (0.30-0.55)`."""
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return "-"
    return f"{ratio.value:.2f} times ({ratio.low:.2f}-{ratio.high:.2f})"


def ratio_text(ratio: Estimate) -> str:
    """`0.41 (0.30-0.55)`."""
    return _times(ratio).replace(" times", "")


def draw_table(report: AuditReport, width: int = TABLE_WIDTH) -> str:
    """The report as text of `width` columns, without colour."""
    text = io.StringIO()
    console = Console(
        file=text, width=width, color_system=None, force_terminal=False, highlight=False, markup=False, emoji=False
    )
    for attribute in report.attributes:
        # What a scorer misreads is no finding: the terminal shows the prompts alone, the page and the JSON all.
        has_images = report.num_images > 0 and report.scorer_accuracy.get(attribute.name, 1.0) >= TRUSTED
        console.print(_heading(attribute))
        console.print(_table(attribute, has_images=has_images, narrow=has_images and width < TABLE_WIDTH))
        if has_images:
            console.print(f"ratio: images by prompts, 1 is as asked; {CONFIDENCE:.0%} intervals, bootstrap over groups")
        console.print()
    for worst in report.worst_groups:
        console.print(_worst_table(worst))
        console.print()
    for sentence in doubts(report):
        console.print(sentence)
    for what, why in report.skipped.items():
        console.print(f"{what}: left out, {why}")
    for note in report.notes:
        console.print(note)
    found = list(findings(report))
    console.print("What stands out:" if found else "Nothing stands out.")
    for sentence in found:
        console.print(f"  {sentence}")
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _heading(attribute: AttributeShares) -> str:
    counts = f"{attribute.naming_groups:,} groups name it, {attribute.free_groups:,} leave it open"
    if attribute.several_groups:
        counts += f", {attribute.several_groups:,} name several"
    return f"{attribute.name}: {counts}"


def _table(attribute: AttributeShares, *, has_images: bool, narrow: bool) -> Table:
    """Shares of the values of an attribute; where it must be `narrow` intervals stand below what they are of."""
    table = Table(box=box.HORIZONTALS if narrow else box.ROUNDED, padding=(0, 0 if narrow else 1), show_edge=not narrow)
    columns = ["value", "groups", "prompts", "by uses"]
    columns += ["images", "ratio", "shown if asked", "if left open", ""] if has_images else []
    for column in columns:
        table.add_column(
            "\n".join(column.rsplit(" ", 1)) if narrow else column,
            justify="left" if column in ("value", "") else "right",
            no_wrap=narrow and column != "value",
            overflow="fold",
        )
    shown = ordered(attribute)
    for value in shown[:MAX_ROWS]:
        cells = [value.name, f"{value.prompt_groups:,}", share(value.prompt_share), share(value.prompt_share_by_uses)]
        if has_images:
            figures = [share(value.image_share.value), ratio_text(value.ratio)]
            figures += [percent(value.agreement), percent(value.free_share), value.verdict]
            cells += [figure.replace(" (", "\n(") for figure in figures] if narrow else figures
        table.add_row(*cells)
    if len(shown) > MAX_ROWS:
        table.add_row(f"and {len(shown) - MAX_ROWS} more")
    return table


def _worst_table(worst: WorstGroups) -> Table:
    whole = f"kNN {worst.accuracy:.1%} ({100 * worst.low:.1f} to {100 * worst.high:.1f})"
    table = Table(title=f"{worst.name}: {whole}", title_justify="left", box=box.ROUNDED)
    for column in ("group", "worst", "accuracy", "images", "gap", "best"):
        table.add_column(column, justify="left" if column in ("group", "worst", "best") else "right")
    for name, parts in {"class": worst.classes, **worst.groups}.items():
        low, high = parts[0], parts[-1]
        gap = f"{100 * (worst.accuracy - low.accuracy):.1f} points"
        table.add_row(
            name, low.name, share(low.accuracy), f"{low.num_images:,}", gap, f"{high.name} {high.accuracy:.1%}"
        )
    return table
