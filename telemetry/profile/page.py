"""A profile as one HTML page: the verdict and one figure first, then all that it rests on. Nothing from elsewhere."""

import html
from collections.abc import Iterator

from penstock.telemetry.html_page import page
from penstock.telemetry.profile.capacities import SYMBOLS
from penstock.telemetry.profile.capacity_figures import capacities_figure, prediction_figure
from penstock.telemetry.profile.figures import STYLE as FIGURE_STYLE
from penstock.telemetry.profile.page_details import details, facts, figures_table, section
from penstock.telemetry.profile.prediction import Prediction
from penstock.telemetry.profile.summary import ProfileSummary
from penstock.telemetry.profile.wording import counted, number, per_s, times

WORTH = 1.05
"""A gain below which it is not worth large letters."""
_STYLE = """
h1 { font-size: 15px; font-weight: 600; margin: 0 0 10px; color: var(--muted); }
h2 { font-size: 18px; margin: 0 0 4px; } h3 { font-size: 14px; margin: 18px 0 4px; }
p { margin: 6px 0; } .small { font-size: 13px; }
.verdict { border-left: 8px solid var(--side); margin-top: 8px; }
.verdict .kind { display: inline-block; background: var(--side); color: var(--card); font-weight: 700; font-size: 13px;
  letter-spacing: .06em; text-transform: uppercase; padding: 3px 12px; border-radius: 999px; }
.verdict .headline { font-size: 25px; line-height: 1.25; font-weight: 650; margin: 10px 0 6px; text-wrap: balance; }
.verdict .gain { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 12px; font-size: 16px;
  color: var(--muted); }
.verdict .gain b { font-size: 34px; font-weight: 700; color: var(--ink); font-variant-numeric: tabular-nums; }
.verdict .gain i { font-style: normal; font-size: 26px; margin-right: 6px; }
.verdict .gain span:last-child b { color: var(--side); }
.verdict .next { font-size: 17px; line-height: 1.45; margin: 12px 0; }
.verdict .next b { color: var(--side); font-weight: 650; }
.verdict .warn { border-left: 3px solid var(--alarm); padding-left: 10px; color: var(--alarm); }
.sure { display: flex; gap: 12px; align-items: center; margin-top: 12px; }
.sure .meter { flex: 0 0 120px; height: 8px; border-radius: 4px; background: var(--line); overflow: hidden; }
.sure .meter i { display: block; height: 100%; background: var(--side); }
details { margin-top: 6px; } summary { cursor: pointer; color: var(--muted); font-size: 13px; }
ul { margin: 6px 0 0; padding-left: 20px; } li { margin: 3px 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px 24px; margin: 20px 0; }
.facts dt { color: var(--muted); font-size: 13px; } .facts dd { margin: 0; font-size: 20px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; margin-top: 8px; }
th { text-align: left; color: var(--muted); font-weight: 400; } td, th { padding: 4px 14px 4px 0; }
td { border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th.n, td.n { text-align: right; white-space: nowrap; } tr.mark td { font-weight: 650; }
tr.slow td { color: var(--alarm); }
code { font: 13px ui-monospace, monospace; background: var(--paper); border: 1px solid var(--line); border-radius: 5px;
  padding: 2px 6px; overflow-wrap: anywhere; }
@media (max-width: 720px) { .wide-table td { white-space: nowrap; } .verdict .headline { font-size: 21px; }
  .verdict .next { font-size: 16px; } section { padding: 14px; margin: 14px 0; } .facts dd { font-size: 18px; } }
@media print { section { break-inside: avoid; } }
"""


def draw_page(summary: ProfileSummary) -> str:
    """The whole page."""
    parts = [_verdict(summary)]
    if summary.capacities:
        parts.append(_capacities(summary))
    parts.append(facts(summary))
    if summary.prediction and summary.verdict.sides:
        parts.append(_prediction(summary, summary.prediction))
    parts += details(summary)
    title = f"Penstock profile · {summary.measurements.run_id}"
    return page(title, FIGURE_STYLE + _STYLE, parts)


def _verdict(summary: ProfileSummary) -> str:
    verdict = summary.verdict
    colour = f"var(--{verdict.sides[0]})" if verdict.sides else "var(--muted)"
    headline = verdict.headline.partition(": ")[2] or verdict.headline.partition(" for ")[0].capitalize() + "."
    body = [f'<div class="kind">{html.escape(verdict.kind)}</div>']
    body.append(f'<div class="headline">{html.escape(headline[0].upper() + headline[1:])}</div>')
    if gain := _gain(summary):
        body.append(gain)
    body.append(f'<p class="next"><b>Next.</b> {html.escape(summary.next_step.text)}</p>')
    warnings = (verdict.contradiction, verdict.shortfall, *verdict.caveats)
    body += [f'<p class="warn">{html.escape(text)}</p>' for text in warnings if text]
    body.append(f"<p>{html.escape(verdict.evidence)}</p>")
    if verdict.sides:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in verdict.because)
        share = f"{verdict.confidence:.0%}"
        meter = f'<div class="meter"><i style="width: {share}"></i></div>'
        body.append(f'<div class="sure"><span>Confidence {verdict.sureness}, {share}</span>{meter}</div>')
        body.append(f"<details><summary>What that rests on</summary><ul>{reasons}</ul></details>")
    if summary.measurements.is_paced:
        body.append('<p class="muted small">A rehearsal: some of the work was a sleep of the length it would take.</p>')
    return f'<section class="verdict" style="--side: {colour}">{"".join(body)}</section>'


def _gain(summary: ProfileSummary) -> str:
    """What it does, and what it should do after the next step; empty where that gains little or is not sure."""
    step, reached = summary.next_step, summary.achieved
    is_sure = summary.verdict.contradiction is None and not summary.verdict.caveats
    if reached is None or step.gain is None or step.images_per_s is None or step.gain < WORTH or not is_sure:
        return ""
    return (
        f'<div class="gain"><span><b>{number(reached.images_per_s)}</b> images/s now</span>'
        f"<span><i>→</i> <b>{number(step.images_per_s)}</b> predicted, {times(step.gain)} as fast</span></div>"
    )


def _capacities(summary: ProfileSummary) -> str:
    symbols = ", ".join(SYMBOLS[part.side] for part in summary.capacities)
    said = (
        f"{symbols}: what each part did alone, in images trained on per second (e = {summary.measurements.reuse:g} for "
        "each image made). A run can go no faster than the smallest of them. "
    )
    said += "Dashed: what all together did. Whiskers: 95% intervals." if summary.achieved else ""
    return section("What each part could do, and what the run did", capacities_figure(summary), said)


def _prediction(summary: ProfileSummary, prediction: Prediction) -> str:
    enough = f"{counted(prediction.knee, 'producer')} {'is' if prediction.knee == 1 else 'are'} enough"
    per_rank = f"{prediction.producers_per_rank:.3g}"
    said = (
        f"{enough}, {per_rank} for each rank. Predicted as min(e·p·n, "
        f"{number(prediction.ceiling)}) times the {prediction.efficiency:.0%} that this run reached of its smallest "
        f"capacity, with e·p = {per_s(prediction.images_per_s_each)} from each of n producers on devices of their own."
    )
    if prediction.cheapest is not None:
        said += f" An image costs least with {counted(prediction.cheapest, 'producer')}."
    table = figures_table(_header(prediction), _rows(prediction))
    rows = f"<details><summary>As a table</summary>{table}</details>"
    return section("What other numbers of producers would bring", prediction_figure(summary, prediction) + rows, said)


def _header(prediction: Prediction) -> list[str]:
    cost = ["cost of a million images"] if prediction.cheapest is not None else []
    return ["producers", "images/s", *cost, "bound by"]


def _rows(prediction: Prediction) -> Iterator[tuple[str, list[str]]]:
    """Class and cells of each row."""
    for point in prediction.points:
        cost = [] if point.cost_per_million is None else [f"{point.cost_per_million:,.2f}"]
        cells = [f"{point.producers:,}", number(point.images_per_s), *cost, point.bound]
        yield "mark" if point.producers in (prediction.producers, prediction.knee) else "", cells
