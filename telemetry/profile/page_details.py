"""What the page shows below its first screen: the run's facts, and a section for each part of the way."""

import html
import time
from collections.abc import Iterable, Iterator, Sequence

from penstock.telemetry.profile.detail_figures import (
    MAX_COLUMNS,
    MAX_ROWS,
    STEP_PARTS,
    queues_figure,
    services_figure,
    steps_figure,
    uses_figure,
)
from penstock.telemetry.profile.measurements import Measurements, RankMeasured, Rate, Together
from penstock.telemetry.profile.stragglers import slow_producers, slowest_step, stragglers
from penstock.telemetry.profile.summary import ProfileSummary
from penstock.telemetry.profile.wording import counted, duration, nbytes, number, per_s

STAGES = {
    "training": ("step", *STEP_PARTS, "evaluate", "checkpoint", "report"),
    "prefetching": ("wait_groups", "collate", "copy"),
    "receiving": ("receive",),
}
"""Stages of a rank that are told of, by the thread that does them."""


def section(title: str, body: str, said: str = "") -> str:
    """A part of the page; `said` is a sentence below its heading."""
    words = f'<p class="muted small">{html.escape(said)}</p>' if said else ""
    return f"<section><h2>{html.escape(title)}</h2>{words}{body}</section>"


def figures_table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table; columns of figures stand to the right. Rows are a class and their cells."""
    listed = list(rows)
    columns = zip(*(cells for _, cells in listed), strict=True)
    kinds = [' class="n"' if _are_figures(column) else "" for column in columns] or [""] * len(header)
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    body = "".join(
        f'<tr class="{name}">'
        + "".join(f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
        + "</tr>"
        for name, cells in listed
    )
    return f'<div class="scroll wide-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _are_figures(cells: Sequence[str]) -> bool:
    """Whether most of them begin as numbers do, or stand for an unknown one."""
    return 2 * sum(cell[:1].isdigit() or cell[:1] in "+-–" for cell in cells) > len(cells)


def facts(summary: ProfileSummary) -> str:
    """The figures that people ask for first."""
    measured = summary.measurements
    shown: dict[str, str] = {}
    if summary.achieved:
        shown["trained on, all together"] = per_s(summary.achieved.images_per_s)
    if measured.fleet:
        shown["P, made by the fleet"] = per_s(measured.fleet.images_per_s)
    if measured.trainer:
        shown["T, taken by the trainer"] = per_s(measured.trainer.images_per_s)
    if measured.together:
        shown["trainer waited"] = f"{measured.together.wait_share:.1%}"
    if step := slowest_step(measured):
        shown["step, p50"] = duration(step.p50_s)
    shown["e, uses of an image"] = f"{measured.reuse:g}"
    shown["producers"] = f"{len(measured.makers):,}"
    shown["ranks"] = f"{measured.world_size:,}"
    if summary.cost_per_million is not None:
        shown["a million images cost"] = f"{summary.cost_per_million:,.2f}"
    cells = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in shown.items())
    return f'<section><dl class="facts" style="margin: 0">{cells}</dl></section>'


def details(summary: ProfileSummary) -> Iterator[str]:
    """The sections, as far as they were measured."""
    measured, together = summary.measurements, summary.measurements.together
    yield _rates(measured)
    if any("step" in rank.stages for rank in measured.ranks):
        yield _steps(measured)
    if together and any(queue.filled for queue in together.queues):
        said = "A queue before the bottleneck is full, one behind it is empty. "
        said += "Empty batches: the trainer starves. Full ones: it is what others wait for."
        yield section("Queues over time, all together", queues_figure(together), said)
    if measured.producers:
        yield _fleet(measured)
    if together:
        yield _freshness(measured, together)
        yield _faults(together)
    yield _conditions(measured)


def _rates(measured: Measurements) -> str:
    together = measured.together
    rows = [
        ("P: producers into a sink", measured.fleet, "made"),
        ("W: wire, images of no engine", measured.wire, "made"),
        ("H: host, batches from memory", measured.host, "trained on"),
        ("T: trainer, batches that are ready", measured.trainer, "trained on"),
        ("together: arrived", together.arrived if together else None, "made"),
        ("together: trained", together.trained if together else None, "trained on"),
    ]
    header = ["phase", "images", "images/s", "spread", "lasted", "over the wire", "cores busy"]
    return section(
        "Rates of each phase",
        figures_table(header, (("", _rate(*row)) for row in rows)),
        "Images that producers make, and those that steps are trained on; one that is made is trained on "
        f"{measured.reuse:g} times at most.",
    )


def _rate(phase: str, rate: Rate | None, unit: str) -> list[str]:
    if rate is None:
        return [phase, "not measured", "", "", "", "", ""]
    spread = ""
    if len(rate.windows) > 1 and rate.images_per_s:
        spread = f"{min(rate.windows) / rate.images_per_s - 1:+.0%} to {max(rate.windows) / rate.images_per_s - 1:+.0%}"
    carried = f"{nbytes(rate.nbytes / rate.seconds)}/s" if rate.nbytes and rate.seconds else ""
    busy = "" if rate.busy_share is None else f"{rate.busy_share:.0%}"
    images = f"{rate.images:,} {unit}"
    return [phase, images, number(rate.images_per_s), spread, duration(rate.seconds), carried, busy]


def _steps(measured: Measurements) -> str:
    slowest = max(
        (rank for rank in measured.ranks if "step" in rank.stages), key=lambda rank: rank.stages["step"].p50_s
    )
    rows = []
    for thread, names in STAGES.items():
        rows += [("", [*_stage(slowest, name), thread]) for name in names if name in slowest.stages]
    others = f" of {measured.world_size}, the slowest" if measured.world_size > 1 else ""
    header = ["stage", "times", "p50", "p95", "p99", "of the time", "thread"]
    table = figures_table(header, rows)
    said = f"Below: rank {slowest.rank}{others}. Stages of different threads run side by side."
    if (share := _flop_share(slowest)) is not None:
        said += f" Its arithmetic is {share:.1%} of what matrix products reach on {slowest.device}."
    if len(measured.ranks) > MAX_COLUMNS:
        said += f" Drawn: the first {MAX_COLUMNS} ranks."
    return section("Where a step's time goes", steps_figure(measured.ranks) + table, said)


def _stage(rank: RankMeasured, name: str) -> list[str]:
    stage, step = rank.stages[name], rank.stages["step"]
    share = f"{stage.seconds / step.seconds:.1%}" if step.seconds else ""
    quantiles = [duration(seconds) for seconds in (stage.p50_s, stage.p95_s, stage.p99_s)]
    return [name.replace("_", " "), f"{stage.count:,}", *quantiles, share]


def _flop_share(rank: RankMeasured) -> float | None:
    step = rank.stages["step"]
    if not rank.flops_per_step or not rank.matrix_flops_per_s or not step.seconds:
        return None
    return rank.flops_per_step * step.count / step.seconds / rank.matrix_flops_per_s


def _fleet(measured: Measurements) -> str:
    slow = slow_producers(measured)
    header = [
        "producer",
        "device",
        "backend",
        "alone, images/s",
        "together",
        "its engine",
        "at work",
        "FLOP rate",
        "ready",
    ]
    rows = []
    shown = measured.producers
    if len(shown) > MAX_ROWS:
        shown = tuple(sorted(shown, key=lambda each: each.alone_images_per_s)[:MAX_ROWS])
    for each in shown:
        shares = ["–" if share is None else f"{share:.0%}" for share in (each.busy_share, each.flop_share)]
        ready = "–" if each.ready_s is None else f"after {duration(each.ready_s)}"
        engine = "–" if each.engine_images_per_s is None else number(each.engine_images_per_s)
        rates = [number(each.alone_images_per_s), number(each.together_images_per_s), engine]
        cells = [each.name, each.device, each.backend, *rates, *shares, ready]
        rows.append(("slow" if each.name in slow else "", cells))
    found = stragglers(measured)
    said = " ".join(found) if found else "None is clearly slower than the others."
    if len(shown) < len(measured.producers):
        said += f" Below: the slowest {MAX_ROWS} of {len(measured.producers):,}; all are in summary.json."
    body = figures_table(header, rows)
    if measured.services:
        body += "<h3>From a ticket's start to its group, median ms</h3>" + services_figure(
            measured, [each.name for each in shown]
        )
    return section("The fleet, and stragglers", body, said)


def _freshness(measured: Measurements, together: Together) -> str:
    groups, uses = sum(together.groups_by_uses), sum(n * count for n, count in enumerate(together.groups_by_uses))
    said = f"Policy {measured.policy}: {measured.min_reuse} to {measured.max_reuse} uses of a group. "
    if measured.min_reuse == measured.max_reuse:
        said = f"Policy {measured.policy}: {counted(measured.max_reuse, 'use')} of each group. "
    if uses:
        said += (
            f"{groups:,} groups gave {uses:,} uses: {groups / uses:.1%} of the uses were of a group's images for the "
        )
        said += "first time, the rest with new augmentations. "
    ages = [rank.stages["sample_age"] for rank in measured.ranks if "sample_age" in rank.stages]
    if ages:
        oldest = max(ages, key=lambda age: age.p50_s)
        said += f"A group was {duration(oldest.p50_s)} old when a step used it, at the median, "
        said += f"and at most {duration(oldest.p95_s)} in 95% of all uses."
    body = uses_figure(together) if len(together.groups_by_uses) > 1 else ""
    return section("Age and reuse of samples", body, said)


def _faults(together: Together) -> str:
    counts = {
        "leases expired": together.expired,
        "late tickets asked for twice": together.hedged,
        "tickets replaced by a stand-in": together.quarantined,
        **{f"messages refused: {reason}": count for reason, count in together.rejects.items()},
    }
    if not any(counts.values()):
        return section("What went wrong", "", "Nothing: no lease expired, no ticket was asked for twice, none refused.")
    rows = [("", [name, f"{count:,}"]) for name, count in counts.items()]
    return section("What went wrong", figures_table(["", "times"], rows))


def _conditions(measured: Measurements) -> str:
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(measured.measured_at))
    rows = [("measured", at), ("took, in all", duration(measured.seconds))]
    rows += [(f"warm-up: {name}", duration(seconds)) for name, seconds in measured.warmup_s.items()]
    if measured.overhead_share is not None:
        rows.append(("cost of measuring", f"{measured.overhead_share:.1%} of the time"))
    step = (
        f"{measured.groups_per_step:,} groups, {measured.images_per_use} of {measured.images_per_group} images of each"
    )
    rows += [("a step", step), ("settings' digest", measured.config_digest)]
    rows += list(({"cores": str(measured.cores)} | dict(measured.environment)).items())
    body = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    again = f"<p><code>{html.escape(measured.command)}</code></p>"
    table = f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'
    return section("Conditions, and how to measure this again", again + table, "Warm-up is in none of the rates.")
