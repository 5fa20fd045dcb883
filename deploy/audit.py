"""`penstock audit`: what prompts asked for against what images show, and how the encoder does on each group."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from penstock.config.process import configure_logging, shown_width
from penstock.deploy.audit_attributes import TEMPLATES, Attribute, of_concepts, of_toyworld, read_attributes
from penstock.deploy.audit_counts import PromptCounts, Survey, count_prompts, survey
from penstock.deploy.audit_images import Seen, accuracies, look
from penstock.deploy.audit_page import draw_page
from penstock.deploy.audit_report import TABLE_WIDTH, TRUSTED, AuditReport, draw_table
from penstock.deploy.audit_shares import AttributeShares, compare
from penstock.deploy.audit_worst import WorstGroups, evaluate_groups
from penstock.deploy.progress import with_progress
from penstock.deploy.recorded import OneLineParser, add_engine, add_run, counted, open_ledger, open_remaker
from penstock.protocol.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    import argparse

    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.producer.scorer import ImageTextScorer

PROG = "penstock audit"
DESCRIPTION = """\
Compare what a run's prompts asked for with what its images show. Prompts are counted from the ledger, by groups and by
uses; a sample of groups is made again and looked at by zero-shot scoring; the trained encoder is evaluated class by
class. Writes audit.json and audit.html, one page with pictures that needs nothing else."""
EXAMPLE = """\
example:
  penstock audit runs/demo
      digits, inks and papers of the toy world, by its own scorer; runs/demo/audit/audit.html
  penstock audit runs/mine --attributes attributes.yaml --scorer ~/clip-vit-base-patch32 --data photos
      attributes.yaml:
          age: {child: [child, boy, girl], adult: [adult, man, woman], "old person": [old, elderly]}
          setting: [indoors, outdoors]
  penstock audit runs/mine --groups 0
      prompts only; nothing is made again
"""
TOYWORLD, NONE = "toyworld", "none"
_CHECK_EVERY = 3
"""One of so many of the toy world's validation images checks the scorer."""


def main(argv: Sequence[str]) -> int:
    """Count, look, evaluate, report. Returns the exit status."""
    options = _parse(argv)
    configure_logging("audit")
    with open_ledger(options.run) as ledger:
        known = survey(ledger)
        if not known.num_generated:
            raise ConfigError(f"{options.run} has no generated group to audit")
        attributes = _attributes(options, known)
        places = _sample(known.num_generated, options.groups, options.seed)
        counts, groups = count_prompts(ledger, attributes, places)
    skipped: dict[str, str] = {}
    scorer = _open_scorer(options, known, skipped) if len(places) else None
    if not len(places):
        skipped["images"] = "--groups 0"
    # Before the images, which take minutes: a set that is not there is refused at once.
    worst = _worst(options, known, skipped)
    seen = _look(options, attributes, counts, places, groups, scorer) if scorer else None
    report = _report(options, known, attributes, counts, places, seen, scorer, worst, skipped)
    out = options.out or options.run / "audit"
    _write(out, report, seen)
    print(draw_table(report, shown_width(TABLE_WIDTH)))
    print(f"\npage  {out / 'audit.html'}\njson  {out / 'audit.json'}")
    return 0


def _parse(argv: Sequence[str]) -> "argparse.Namespace":
    parser = OneLineParser(PROG, DESCRIPTION, EXAMPLE)
    add_run(parser)
    parser.add_argument(
        "--attributes", type=Path, metavar="FILE", help="YAML of attributes, values and words (default: what is known)"
    )
    parser.add_argument(
        "--template", action="append", default=[], metavar="TEXT", help="text for the scorer, {} being the word"
    )
    parser.add_argument(
        "--scorer", default="", metavar="PATH", help="folder or hub id of a CLIP or SigLIP (default: the run's own)"
    )
    parser.add_argument("--groups", type=int, default=256, metavar="N", help="groups to make again (default: 256)")
    parser.add_argument(
        "--data", default="", metavar="SPEC", help="labelled images for the encoder, or none (default: toyworld's)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/audit)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the intervals (default: 0)")
    add_engine(parser)
    options = parser.parse_args(argv)
    for name, value in (("--groups", options.groups), ("--seed", options.seed)):
        if value < 0:
            raise ConfigError(f"{name} must be >= 0, got {value}")
    for template in options.template:
        if template.count("{}") != 1:
            raise ConfigError(f"--template must hold {{}} exactly once, got {template!r}")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out {options.out} is not a folder")
    return options


def _attributes(options: "argparse.Namespace", known: Survey) -> tuple[Attribute, ...]:
    """What is looked for. Raises ConfigError where nobody said it, and nothing is known."""
    templates = options.template or TEMPLATES
    given: tuple[Attribute, ...] = ()
    if options.attributes is not None:
        given = read_attributes(options.attributes, templates)
    elif known.is_toyworld:
        given = of_toyworld()
    names = {value.name for attribute in given for value in attribute.values}
    if len(known.concepts) >= 2 and not set(known.concepts) <= names:
        given = (*given, of_concepts(known.concepts, templates))
    if not given:
        raise ConfigError(f"{options.run} has no concepts; say what to look for with --attributes (see {PROG} --help)")
    return given


def _sample(num_groups: int, wanted: int, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Which groups are made again: int64, ascending, drawn evenly without replacement."""
    drawn = np.random.default_rng(seed).choice(num_groups, min(wanted, num_groups), replace=False)
    return np.sort(drawn.astype(np.int64))


def _open_scorer(options: "argparse.Namespace", known: Survey, skipped: dict[str, str]) -> "ImageTextScorer | None":
    """What looks at images; None, with the reason, where there is none."""
    pair = options.run / "pair"
    name = options.scorer or (TOYWORLD if known.is_toyworld else str(pair) if pair.is_dir() else "")
    if not name:
        skipped["images"] = "there is no scorer; name a CLIP or SigLIP with --scorer"
        return None
    from penstock.producer.scorer import open_scorer

    scorer = open_scorer(name, options.device, "float32" if name == TOYWORLD else "auto")
    scorer.load()
    options.scorer = name
    return scorer


def _look(
    options: "argparse.Namespace",
    attributes: Sequence[Attribute],
    counts: PromptCounts,
    places: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    groups: "Sequence[LedgerGroup]",
    scorer: "ImageTextScorer",
) -> Seen:
    with open_remaker(options) as remaker:
        remade = with_progress(remaker.remake(groups), len(groups), what="looked at ")
        seen = look(remade, attributes, counts.codes[places], scorer)
        seen.notes += remaker.notes
    return seen


def _misread(shares: AttributeShares) -> AttributeShares:
    """The same without verdicts: what the scorer sees says more of itself than of the run."""
    return replace(shares, values=tuple(replace(value, verdict="misread") for value in shares.values))


def _is_toy(options: "argparse.Namespace", known: Survey) -> bool:
    """Whether the attributes are the toy world's own."""
    return known.is_toyworld and options.attributes is None


def _scorer_accuracy(attributes: Sequence[Attribute], scorer: "ImageTextScorer") -> dict[str, float]:
    """How well the scorer reads the toy world's own renders, of which everything is known."""
    from penstock.toyworld.evaluation import bank_styles, evaluation_sets

    bank, styles = evaluation_sets().bank, bank_styles()
    truth = {"digit": bank.labels, "ink": styles.ink, "paper": styles.paper}
    checked = [attribute for attribute in attributes if attribute.name in truth]
    rows = slice(None, None, _CHECK_EVERY)
    known = [truth[attribute.name][rows] for attribute in checked]
    read = accuracies(bank.images[rows], known, checked, scorer)
    return {attribute.name: share for attribute, share in zip(checked, read, strict=True)}


def _worst(options: "argparse.Namespace", known: Survey, skipped: dict[str, str]) -> list[WorstGroups]:
    """The encoder's evaluation; empty, with the reason, where there is no encoder or no data."""
    data = options.data or (TOYWORLD if known.is_toyworld else NONE)
    if data == NONE:
        skipped["evaluation"] = "no labelled images; name a set with --data"
    elif not any((options.run / name / "config.json").is_file() for name in ("pair", "encoder")):
        skipped["evaluation"] = "the run has no encoder yet"
    else:
        try:
            return evaluate_groups(options.run, data, options.device)
        except PenstockError as error:
            if options.data:
                raise
            skipped["evaluation"] = str(error)
    return []


def _report(
    options: "argparse.Namespace",
    known: Survey,
    attributes: Sequence[Attribute],
    counts: PromptCounts,
    places: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    seen: Seen | None,
    scorer: "ImageTextScorer | None",
    worst: Sequence[WorstGroups],
    skipped: dict[str, str],
) -> AuditReport:
    shares = []
    for number, attribute in enumerate(attributes):
        groups, uses = counts.counts(number, len(attribute.values))
        shares.append(
            compare(
                attribute.name,
                tuple(value.name for value in attribute.values),
                counts.codes[:, number],
                groups,
                uses,
                counts.codes[places, number] if seen else np.empty(0, np.int16),
                seen.shown[number] if seen else np.empty((0, len(attribute.values))),
                seed=options.seed,
            )
        )
    read = _scorer_accuracy(attributes, scorer) if scorer and _is_toy(options, known) else {}
    shares = [each if read.get(each.name, 1.0) >= TRUSTED else _misread(each) for each in shares]
    return AuditReport(
        run=options.run.resolve().name,
        num_groups=known.num_generated,
        num_uses=int(counts.uses.sum()),
        num_real_groups=known.num_real,
        num_concepts=known.num_concepts,
        num_sampled_groups=len(places) if seen else 0,
        num_images=seen.num_images if seen else 0,
        matching=seen.matching if seen else 0,
        differing=seen.differing if seen else 0,
        scorer=options.scorer if scorer else "",
        scorer_digest=scorer.digest if scorer else "",
        scorer_accuracy=read,
        seed=options.seed,
        attributes=tuple(shares),
        worst_groups=tuple(worst),
        skipped=skipped,
        notes=(*_notes(known, seen), *(seen.notes if seen else ())),
    )


def _notes(known: Survey, seen: Seen | None) -> list[str]:
    notes = []
    if known.num_real:
        notes.append(f"{counted(known.num_real, 'group')} of real images are left out.")
    if known.num_concepts > len(known.concepts):
        notes.append(f"{known.num_concepts:,} concepts; the {len(known.concepts):,} most frequent ones are shown.")
    if seen and seen.differing:
        notes.append(f"{counted(seen.differing, 'group')} made again differ from the ledger's checksum.")
    return notes


def _write(out: Path, report: AuditReport, seen: Seen | None) -> None:
    """Raises ConfigError where the results cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "audit.json").write_text(report.to_json(), encoding="utf-8")
        (out / "audit.html").write_text(draw_page(report, seen.examples if seen else []), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from error
