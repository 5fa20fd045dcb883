"""A profile as a box of text, and a comparison as a table: for terminals, logs and mails."""

import io
from collections.abc import Iterator

from rich import box as rich_box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from penstock.telemetry.profile.capacities import SYMBOLS, Capacity
from penstock.telemetry.profile.compare import Change, Comparison
from penstock.telemetry.profile.stragglers import slowest_step, stragglers
from penstock.telemetry.profile.summary import ProfileSummary
from penstock.telemetry.profile.wording import counted, duration, number
from penstock.telemetry.summary import BOX_WIDTH

_BAR_CELLS = 24
_REST_CELLS = 46
"""What a row of rates needs beside its bar, in a box."""
REACH = 3.0
"""Bars end at so many times the smallest capacity: how far the others lie beyond tells nobody anything."""


def box(summary: ProfileSummary, width: int = BOX_WIDTH) -> str:
    """The first screen of the report, `width` characters wide, without colour."""
    parts: list[RenderableType] = [_verdict(summary)]
    if summary.capacities:
        parts += ["", _capacities(summary, max(4, min(_BAR_CELLS, width - _REST_CELLS)))]
    if rest := list(_rest(summary)):
        parts += ["", _rows(rest)]
    panel = Panel(Group(*parts), title="penstock profile", title_align="left", box=rich_box.ROUNDED, padding=(0, 1))
    return _drawn(panel, width)


def table(comparison: Comparison, tolerance: float, width: int = BOX_WIDTH) -> str:
    """Both profiles side by side, and what the comparison comes to."""
    rows = Table(box=None, pad_edge=False)
    rows.add_column("images/s")
    for column in ("A", "B", "B / A"):
        rows.add_column(column, justify="right", no_wrap=True)
    rows.add_column("")
    for change in comparison.changes:
        rates = (number(change.before), number(change.after), f"{change.ratio:.3f}")
        rows.add_row(change.name, *rates, _told(change))
    for name, before, after in comparison.context:
        rows.add_row(name, before, after, "", "")
    notes = [f"Not measured in B: {name}" for name in comparison.lost]
    notes += [f"They differ in more than time: {difference}" for difference in comparison.differences]
    return _drawn(Group(rows, *(Text(note) for note in notes), Text(_outcome(comparison, tolerance))), width)


def _verdict(summary: ProfileSummary) -> Table:
    verdict = summary.verdict
    rows = [("Question", "Which side bounds this run?"), ("Verdict", verdict.headline), ("Evidence", verdict.evidence)]
    rows += [("But", text) for text in (verdict.contradiction, verdict.shortfall, *verdict.caveats) if text]
    rows.append(("Next", summary.next_step.text))
    if verdict.sides:
        rows.append(("Sure", f"{verdict.sureness} ({verdict.confidence:.0%}): {'; '.join(verdict.because)}."))
    return _rows(rows)


def _rows(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, text in rows:
        grid.add_row(Text(name), Text(text))
    return grid


def _capacities(summary: ProfileSummary, num_cells: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(no_wrap=True, justify="right")
    parts: list[tuple[str, Capacity]] = [(f"{SYMBOLS[part.side]} {part.side}", part) for part in summary.capacities]
    if summary.achieved:
        parts.append(("all together", summary.achieved))
    rates = [part.images_per_s for _, part in parts]
    end = min(max(rates), REACH * min(rates)) or 1.0
    for name, part in parts:
        cells = min(num_cells, round(num_cells * part.images_per_s / end))
        bar = "█" * (cells - 1) + ("▶" if part.images_per_s > end else "█") if cells else ""
        spread = f"± {number(part.half_width)}" if part.half_width is not None else ""
        grid.add_row(Text(name), Text(bar), Text(f"{number(part.images_per_s)} images/s"), Text(spread))
    return grid


def _rest(summary: ProfileSummary) -> Iterator[tuple[str, str]]:
    """What is worth a line each."""
    measured, prediction = summary.measurements, summary.prediction
    fleet = f"{counted(len(measured.producers), 'producer')}, {counted(measured.world_size, 'rank')}"
    paced = "; a rehearsal: work is a sleep" if measured.is_paced else ""
    yield "Run", f"{measured.run_id}: {fleet}, e = {measured.reuse:g}{paced}"
    if prediction and summary.verdict.sides:
        per_rank = f"{prediction.producers_per_rank:.3g} for each rank"
        yield "Enough", f"{counted(prediction.knee, 'producer')}, {per_rank}: more gain nothing."
    if summary.cost_per_million is not None:
        yield "Cost", f"{summary.cost_per_million:,.2f} for a million images trained on, as measured"
    if step := slowest_step(measured):
        quantiles = (step.p50_s, step.p95_s, step.p99_s)
        yield "Step", "p50 {}, p95 {}, p99 {}".format(*map(duration, quantiles))
    if measured.warmup_s:
        warm = ", ".join(f"{name} {duration(seconds)}" for name, seconds in measured.warmup_s.items())
        yield "Warm-up", f"{warm} (in none of these rates)"
    for sentence in stragglers(measured):
        yield "Straggler", sentence


def _told(change: Change) -> str:
    """What is to be said of a change."""
    if not change.is_regression:
        return ""
    return "SLOWER (perhaps noise: the intervals overlap)" if change.is_within_noise else "SLOWER"


def _outcome(comparison: Comparison, tolerance: float) -> str:
    if not comparison.changes:
        return "Nothing to compare: the two have no rate in common."
    told = []
    if slower := comparison.regressions:
        told.append(f"{', '.join(change.name for change in slower)} fell by more than {tolerance:.0%}")
    if comparison.lost:
        told.append(f"{', '.join(comparison.lost)} {'is' if len(comparison.lost) == 1 else 'are'} no longer measured")
    if told:
        return f"Regression: {'; '.join(told)}."
    return f"No regression: no rate fell by more than {tolerance:.0%}."


def _drawn(shown: RenderableType, width: int) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(shown)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
