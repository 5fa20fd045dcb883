"""An audit as one HTML page: pictures in it, nothing from elsewhere, readable by day, by night and on a phone."""

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from penstock.deploy.audit_images import Example
from penstock.deploy.audit_report import (
    MAX_ROWS,
    AuditReport,
    doubts,
    findings,
    ordered,
    percent,
    ratio_text,
    share,
)
from penstock.deploy.audit_shares import CONFIDENCE, FEW_GROUPS, AttributeShares, ValueShares
from penstock.telemetry.html_page import page, picture_source

if TYPE_CHECKING:
    from penstock.deploy.audit_worst import PartAccuracy, WorstGroups

Examples = Sequence[Sequence[Sequence[Example]]]
"""By attribute and value."""
_PICTURE_PX = 96
"""Larger images are averaged down to about this, by whole factors."""

_STYLE = """
:root { --image: #c2512f; --open: #8a949e; --over: #8a5a00; --fine: #2d6a4f; }
@media (prefers-color-scheme: dark) { :root { --image: #ee8a68; --open: #7d8892; --over: #e0b050; --fine: #7fc8a4; } }
h1 { font-size: 26px; margin: 8px 0 4px; } h2 { font-size: 19px; margin: 0; }
p { margin: 6px 0; } .small { font-size: 13px; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 16px 0; padding: 0; }
.facts div { min-width: 96px; } .facts dt { color: var(--muted); font-size: 13px; }
.facts dd { margin: 0; font-size: 20px; }
ul { margin: 8px 0 0; padding-left: 20px; } li { margin: 3px 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 10px 0 4px; font-size: 13px; color: var(--muted); }
.legend i { display: inline-block; width: 12px; height: 10px; border-radius: 2px; margin-right: 6px; }
.value { display: grid; grid-template-columns: 170px minmax(220px, 1fr) 256px; gap: 6px 18px; padding: 12px 0;
  border-top: 1px solid var(--line); align-items: start; }
.name { font-weight: 600; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 1fr 52px; align-items: center; gap: 8px; font-size: 13px;
  font-variant-numeric: tabular-nums; }
.bar span { display: block; height: 10px; border-radius: 3px; min-width: 1px; }
.bar b { font-weight: 400; text-align: right; }
.figures { font-size: 13px; font-variant-numeric: tabular-nums; }
.verdict { font-weight: 600; } .over { color: var(--over); } .under { color: var(--alarm); }
.as { color: var(--fine); } .too, .misread { color: var(--muted); font-weight: 400; }
.pictures { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 8px; }
figure { margin: 0; width: 72px; } figure img { width: 72px; height: 72px; object-fit: cover; display: block;
  border-radius: 4px; border: 2px solid transparent; image-rendering: pixelated; }
figure.large img { image-rendering: auto; }
figure.other img { border-color: var(--alarm); }
figcaption { font-size: 11px; line-height: 1.25; color: var(--alarm); overflow-wrap: anywhere; margin-top: 2px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; margin-top: 8px; }
th { text-align: left; color: var(--muted); font-weight: 400; } td, th { padding: 4px 12px 4px 0; white-space: nowrap; }
td { border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td .bar { grid-template-columns: minmax(44px, 1fr) 52px; }
@media (max-width: 720px) { .value { grid-template-columns: 1fr; gap: 4px; } .figures { display: flex; flex-wrap: wrap;
  gap: 0 16px; } h1 { font-size: 22px; } section { padding: 14px; } }
"""


def draw_page(report: AuditReport, examples: Examples) -> str:
    """The page.

    Args:
        report: what was found.
        examples: images of each attribute's values; empty where no image was looked at.
    """
    parts = [
        '<p class="muted">What the prompts of this run asked for, and what its images show.</p>',
        _facts(report),
        _found(report),
    ]
    for number, attribute in enumerate(report.attributes):
        parts.append(_attribute(attribute, examples[number] if examples else [], report.num_images > 0))
    parts += [_worst(worst, report) for worst in report.worst_groups]
    parts.append(_method(report))
    return page(f"Audit of {report.run}", _STYLE, parts)


def _text(words: str) -> str:
    return html.escape(words)


def _facts(report: AuditReport) -> str:
    facts = {
        "groups": f"{report.num_groups:,}",
        "uses": f"{report.num_uses:,}",
        "made again": f"{report.num_sampled_groups:,} groups",
        "looked at": f"{report.num_images:,} images",
        "checksums equal": f"{report.matching:,} of {report.num_sampled_groups:,}",
    }
    shown = facts if report.num_images else {name: facts[name] for name in ("groups", "uses")}
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in shown.items()) + "</dl>"


def _found(report: AuditReport) -> str:
    found = "".join(f"<li>{_text(sentence)}</li>" for sentence in findings(report))
    left = "".join(f"<p>{_text(what)}: left out, {_text(why)}</p>" for what, why in report.skipped.items())
    notes = "".join(f"<p>{_text(note)}</p>" for note in (*doubts(report), *report.notes))
    body = f"<ul>{found}</ul>" if found else "<p>Nothing does, within the intervals.</p>"
    return f'<section><h2>What stands out</h2>{body}<div class="muted small">{left}{notes}</div></section>'


def _attribute(attribute: AttributeShares, examples: Sequence[Sequence[Example]], has_images: bool) -> str:
    counts = f"{attribute.naming_groups:,} groups name it, {attribute.free_groups:,} leave it open"
    if attribute.several_groups:
        counts += f", {attribute.several_groups:,} name several and count for none"
    shown = ordered(attribute)[:MAX_ROWS]
    places = {value.name: place for place, value in enumerate(attribute.values)}
    widest = max((bar for value in shown for _, bar in _bars(value)), default=1.0) or 1.0
    rows = "".join(
        _value(value, examples[places[value.name]] if examples else [], widest, has_images) for value in shown
    )
    more = len(attribute.values) - len(shown)
    rest = f'<p class="muted small">and {more:,} more values in audit.json</p>' if more > 0 else ""
    agreed = f" · {percent(attribute.agreement)} of images show the value that their prompt names" if has_images else ""
    head = f'<h2>{_text(attribute.name)}</h2><p class="muted small">{counts}{agreed}</p>'
    return f"<section>{head}{_legend(has_images, attribute.sampled_free > 0)}{rows}{rest}</section>"


def _legend(has_images: bool, has_free: bool) -> str:
    keys = [("blue", "prompts that name the value")]
    keys += [("image", "images of prompts that name any")] if has_images else []
    keys += [("open", "images of prompts that leave it open")] if has_images and has_free else []
    return '<div class="legend">' + "".join(f"<span>{_key(*key)}</span>" for key in keys) + "</div>"


def _key(colour: str, words: str) -> str:
    return f'<i style="background: var(--{colour})"></i>{words}'


def _bars(value: ValueShares) -> Iterator[tuple[str, float]]:
    """Colours and shares, those that are known."""
    for colour, known in (
        ("blue", value.prompt_share),
        ("image", value.image_share.value),
        ("open", value.free_share.value),
    ):
        if known is not None:
            yield colour, known


def _bar(colour: str, known: float, widest: float) -> str:
    fill = f"background: var(--{colour}); width: {100 * known / widest:.1f}%"
    return f'<div class="bar"><div><span style="{fill}"></span></div><b>{share(known)}</b></div>'


def _value(value: ValueShares, examples: Sequence[Example], widest: float, has_images: bool) -> str:
    bars = "".join(_bar(colour, known, widest) for colour, known in _bars(value))
    counts = f"{value.prompt_groups:,} groups, {share(value.prompt_share_by_uses)} by uses"
    name = f'<div><div class="name">{_text(value.name)}</div><div class="muted small">{counts}</div></div>'
    figures = ""
    if has_images:
        word = f'<div class="verdict {value.verdict.split()[0]}">{_verdict(value)}</div>'
        ratio = f"<div>images / prompts {ratio_text(value.ratio)}</div>"
        agreed = f"<div>shown when asked {percent(value.agreement)}</div>"
        figures = f'<div class="figures">{word}{ratio}{agreed}</div>'
    pictures = "".join(_picture(example, "" if value.verdict == "misread" else value.name) for example in examples)
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return f'<div class="value">{name}<div>{bars}</div>{figures}{shown}</div>'


def _verdict(value: ValueShares) -> str:
    words = {"over": "over-represented", "under": "under-represented", "as asked": "as asked"}
    words |= {"misread": "the scorer misreads this"}
    return words.get(value.verdict, f"too few to tell ({value.sampled_groups} groups)")


def _picture(example: Example, asked: str) -> str:
    """An example; framed where it was seen as another value than the one asked for, where that is known."""
    is_other = bool(asked) and example.shown != asked
    kind = " ".join(["other"] * is_other + ["large"] * (min(example.image.shape[:2]) > _PICTURE_PX))
    about = _text(f"{example.prompt} (group {example.index})")
    caption = f"<figcaption>seen as {_text(example.shown)}</figcaption>" if is_other else ""
    image = f'<img src="{picture_source(example.image, _PICTURE_PX)}" alt="{about}" title="{about}">'
    return f'<figure class="{kind}">{image}{caption}</figure>'


def _worst(worst: "WorstGroups", report: AuditReport) -> str:
    asked = {value.name: value.prompt_share for attribute in report.attributes for value in attribute.values}
    whole = f"kNN accuracy {worst.accuracy:.1%} ({100 * worst.low:.1f} to {100 * worst.high:.1f})"
    gap = f"worst class {100 * worst.gap:.1f} points below it"
    tables = "".join(
        _accuracies(name, parts, asked) for name, parts in {"class": worst.classes, **worst.groups}.items()
    )
    head = f'<h2>Encoder on {_text(worst.name)}</h2><p class="muted small">{whole}; {gap}</p>'
    return f"<section>{head}{tables}</section>"


def _accuracies(name: str, parts: "Sequence[PartAccuracy]", asked: dict[str, float | None]) -> str:
    rows = "".join(
        f"<tr><td>{_text(part.name)}</td><td>{_bar('image', part.accuracy, 1.0)}</td><td>{part.num_images:,}</td>"
        f"<td>{share(asked.get(part.name))}</td></tr>"
        for part in parts[:MAX_ROWS]
    )
    head = f"<tr><th>{_text(name)}</th><th>accuracy</th><th>images</th><th>of prompts</th></tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _method(report: AuditReport) -> str:
    parts = ["Groups are the images of one prompt, made together; a use is a step that trained on a group."]
    if report.num_images:
        parts += [
            f"{report.num_sampled_groups:,} groups were drawn evenly (seed {report.seed}) and made again.",
            f"Each image shows the value whose text the scorer {_text(report.scorer)} "
            f"({_text(report.scorer_digest[:12])}) matches best: its errors are in these figures.",
            f"Intervals are {CONFIDENCE:.0%}, by a bootstrap over groups; of many values some lie outside by luck. "
            f"A value that fewer than {FEW_GROUPS} of the groups made again name is not judged.",
            "A red frame: the image was seen as another value than its prompt names.",
        ]
    return '<section class="muted small"><h2>How</h2>' + "".join(f"<p>{part}</p>" for part in parts) + "</section>"
