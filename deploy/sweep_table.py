"""The results of a sweep as text: a table, a CSV, and what can be said of them in sentences."""

import csv
import io
from collections.abc import Sequence

from penstock.deploy.sweep_results import Results
from penstock.telemetry.seed_interval import SeedInterval


def verdict(results: Results, num_arms: int, num_done: int) -> list[str]:
    """What the table says, in sentences."""
    lines = []
    if results.rows and results.best is None:
        lines.append("No best value: no arm was validated; lower --evaluation.every-steps.")
    if (best := results.best) is not None:
        test = "not measured" if best.row.test is None else percent(best.row.test)
        lines.append(f"Best {results.name}: {best.row.value}. Chosen on validation, reported on test: {test}.")
        if best.place.endswith("edge"):
            side = "below" if best.place == "lower edge" else "above"
            lines.append(f"It lies at the {best.place} of the range: extend the range {side} {best.row.value}.")
        elif best.place == "inside":
            lines.append("It lies inside the range.")
        if best.not_told_apart:
            lines.append(f"Not told apart from it by these seeds: {', '.join(best.not_told_apart)}.")
    if results.rows and max(row.num_seeds for row in results.rows) == 1:
        lines.append("One seed: no intervals, and the best may be luck; --seeds 0,1,2 gives them.")
    elif results.rows:
        lines.append("± is half of a 95% interval over seeds (Student's t).")
    floors = [("raw pixels", results.pixels), ("before training", results.before)]
    if any(value is not None for _, value in floors):
        known = ", ".join(f"{name} {value:.1%}" for name, value in floors if value is not None)
        lines.append(f"Floors, on test: {known}.")
    if num_done < num_arms:
        lines.append(f"{num_done} of {num_arms} arms have finished; the same command goes on.")
    return lines


def table(results: Results) -> str:
    """The figures as aligned text, the best value marked."""
    has_rankme = any(row.rankme is not None for row in results.rows)
    head = [results.name, "seeds", "test kNN", "validation kNN", *(["RankMe"] if has_rankme else []), "images", "s"]
    lines = [head]
    for row in results.rows:
        mark = " *" if results.best is not None and results.best.row is row else ""
        rankme = [_plain(row.rankme)] if has_rankme else []
        cells = [row.value + mark, str(row.num_seeds), percent(row.test), percent(row.validation), *rankme]
        lines.append([*cells, f"{row.images:,.0f}", f"{row.seconds:,.0f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(_align(line, widths)) for line in lines)


def _align(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *figures = zip(cells, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in figures)]


def as_csv(results: Results) -> str:
    """A line a value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = ("test", "validation", "rankme")
    spread = [f"{figure}_{part}" for figure in figures for part in ("mean", "half_width")]
    writer.writerow([results.name, "seeds", *spread, "images_made", "seconds", "is_best"])
    for row in results.rows:
        intervals = [getattr(row, figure) for figure in figures]
        cells = [cell for each in intervals for cell in ((each.mean, each.half_width) if each else (None, None))]
        is_best = results.best is not None and results.best.row is row
        writer.writerow([row.value, row.num_seeds, *cells, row.images, row.seconds, int(is_best)])
    return text.getvalue()


def percent(interval: SeedInterval | None) -> str:
    """A share with its interval: `88.5% ± 1.2`."""
    if interval is None:
        return "-"
    return f"{interval.mean:.1%}" + (f" ± {100 * interval.half_width:.1f}" if interval.half_width is not None else "")


def _plain(interval: SeedInterval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.mean:.1f}" + (f" ± {interval.half_width:.1f}" if interval.half_width is not None else "")
