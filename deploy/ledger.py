"""`penstock ledger`: asks a run's ledger what came, who made it, and what each step used; also while it grows."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from penstock.config.process import printable
from penstock.config.strict_yaml import did_you_mean
from penstock.deploy.columns import print_columns
from penstock.deploy.recorded import OneLineParser, add_run, counted, open_ledger
from penstock.protocol.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.consumer.ledger_reader import LedgerReader
    from penstock.consumer.ledger_summary import LedgerSummary

PROG = "penstock ledger"
DESCRIPTION = """\
Ask a run's ledger. Without a filter it says what is in it; with one or several it lists the groups that pass them all:
a group is the images of one prompt, made together. It reads while the run goes on and never holds it up."""
EXAMPLE = """\
example:
  penstock demo
  penstock ledger runs/demo                               what came, from whom, and what it takes on the disk
  penstock ledger runs/demo --step 120                    the batch of step 120, in its order
  penstock ledger runs/demo --prompt seven --limit 0      all groups in whose prompt `seven` stands
  penstock ledger runs/demo --producer local-1 --json     lines of JSON with all that makes the images again
"""
_ROWS = 20
"""Groups that are listed unless --limit says otherwise."""
_MOST_CONCEPTS = 8
"""Concepts that a summary names."""
_COLUMNS = ("group", "step", "concept", "producer", "seed", "prompt")


def main(argv: Sequence[str]) -> int:
    """Answer. Raises ConfigError where there is nothing to ask, or no answer."""
    options = _parse(argv)
    filters = {name: getattr(options, name) for name in ("step", "prompt", "producer", "concept", "index")}
    asked = {name: value for name, value in filters.items() if value is not None}
    with open_ledger(options.run) as ledger:
        if not asked:
            _tell_summary(options, ledger)
        elif options.json:
            _tell_json(_found(ledger, asked), options.limit or None)
        else:
            _tell_table(ledger, asked, _ROWS if options.limit is None else options.limit or None)
    return 0


def _parse(argv: Sequence[str]) -> "argparse.Namespace":
    parser = OneLineParser(PROG, DESCRIPTION, EXAMPLE)
    add_run(parser)
    which = parser.add_argument_group("which groups")
    which.add_argument("--step", type=int, metavar="K", help="those that optimizer step K used")
    which.add_argument("--prompt", metavar="TEXT", help="those of this prompt, or else with this in their prompts")
    which.add_argument("--producer", metavar="NAME", help="those that this producer made")
    which.add_argument("--concept", metavar="NAME", help="those of this concept")
    which.add_argument("--index", type=int, metavar="I", help="the one at this global index")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each group, or one for the summary")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"groups to list; 0 for all (default: {_ROWS}, with --json all)"
    )
    options = parser.parse_args(argv)
    if options.limit is not None and options.limit < 0:
        parser.error(f"--limit must be >= 0, got {options.limit}")
    for name in ("prompt", "producer", "concept"):
        try:
            (getattr(options, name) or "").encode()
        except UnicodeEncodeError:
            parser.error(f"--{name} must be UTF-8 text, got {getattr(options, name)!r}")
    return options


def _found(ledger: "LedgerReader", asked: dict[str, Any]) -> "Iterator[LedgerGroup]":
    """The groups that are asked for. Raises ConfigError where there is none."""
    step = asked.get("step")
    if step is not None and step not in ledger.steps:
        has = f"its steps are {ledger.steps[0]} to {ledger.steps[-1]}" if ledger.steps else "it has no step yet"
        raise ConfigError(f"--step {step} is not in the ledger; {has}")
    groups = ledger.groups(**asked)
    first = next(groups, None)
    if first is None:
        raise ConfigError(_nothing(ledger, asked))
    yield first
    yield from groups


def _nothing(ledger: "LedgerReader", asked: dict[str, Any]) -> str:
    """Why no group was found."""
    for name, known in (("producer", ledger.producers), ("concept", ledger.concepts)):
        if name in asked and asked[name] not in known:
            near = (
                did_you_mean(asked[name], known) or f"; known are {', '.join(known[:8])}" if known else "; it has none"
            )
            return f"--{name} {asked[name]} is not in the ledger{near}"
    if "index" in asked and not any(ledger.groups(index=asked["index"])):
        return f"--index {asked['index']} is not in the ledger, which holds {counted(ledger.num_groups, 'group')}"
    if "prompt" in asked and not any(ledger.groups(prompt=asked["prompt"])):
        return f"--prompt {asked['prompt']!r} is no prompt of the ledger, and stands in none"
    return f"no group has all of these: {', '.join(f'--{name} {value}' for name, value in asked.items())}"


# --- answers ----------------------------------------------------------------------------------------------------------


def _tell_json(groups: "Iterable[LedgerGroup]", limit: int | None) -> None:
    for group in islice(groups, limit):
        print(json.dumps(asdict(group), ensure_ascii=False))


def _tell_table(ledger: "LedgerReader", asked: dict[str, Any], limit: int | None) -> None:
    if set(asked) == {"step"}:
        list(islice(_found(ledger, asked), 1))  # a step that is not there is told as for any other filter
        uses = ledger.uses(asked["step"])
        rows: Iterable[Sequence[object]] = (
            (*_cells(use.group)[:-1], use.echo + 1, " ".join(map(str, use.images)), _cells(use.group)[-1])
            for use in uses
        )
        columns: Sequence[str] = (*_COLUMNS[:-1], "use", "images", "prompt")
        num_rows = len(uses)
    else:
        found = _found(ledger, asked)
        rows = list(map(_cells, islice(found, limit)))
        columns, num_rows = _COLUMNS, len(rows) + sum(1 for _ in found)
    print_columns(columns, islice(rows, limit))
    if limit is not None and num_rows > limit:
        print(f"{counted(limit, 'group')} of {num_rows:,}; --limit 0 lists all")


def _cells(group: "LedgerGroup") -> tuple[object, ...]:
    """What a table says of a group, by `_COLUMNS`."""
    return (
        group.index,
        group.first_step,
        group.concept or "-",
        group.producer,
        group.recipe.seed,
        group.recipe.prompt,
    )


def _tell_summary(options: "argparse.Namespace", ledger: "LedgerReader") -> None:
    from penstock.consumer.ledger_summary import summarise

    summary = summarise(options.run, ledger)
    if options.json:
        steps = [summary.steps.start, summary.steps.stop - 1] if summary.steps else []
        print(json.dumps(asdict(summary) | {"steps": steps, "lives": ledger.lives}, ensure_ascii=False))
        return
    for name, line in _lines(summary):
        print(f"{name:12}{printable(line)}")


def _lines(summary: "LedgerSummary") -> Iterator[tuple[str, str]]:
    """What a summary says, as names and lines."""
    steps = f"{summary.steps[0]:,} to {summary.steps[-1]:,}" if summary.steps else "none yet"
    yield (
        "steps",
        f"{steps}, in {_plural(summary.num_lives, 'life', 'lives')} of up to {counted(summary.num_ranks, 'rank')}",
    )
    again = summary.num_arrivals - summary.num_groups
    yield "groups", f"{summary.num_groups:,}" + (f", {again:,} of them asked for again by a resume" if again else "")
    yield "uses", f"{summary.num_uses:,}, {summary.num_uses / max(1, summary.num_groups):.1f} a group"
    yield "prompts", f"{summary.num_prompts:,}"
    for number, producer in enumerate(summary.producers):
        manifest = producer.manifest
        made_by = f"{manifest.model}, {manifest.dtype} on {manifest.device}, {manifest.backend}"
        yield "" if number else "producers", f"{producer.name}: {counted(producer.num_groups, 'group')} ({made_by})"
    if summary.concepts:
        shown = ", ".join(f"{name} {num:,}" for name, num in summary.concepts[:_MOST_CONCEPTS])
        more = len(summary.concepts) - _MOST_CONCEPTS
        yield "concepts", f"{len(summary.concepts):,}: {shown}" + (f" and {more:,} more" if more > 0 else "")
    yield "quarantined", f"{summary.num_quarantined:,}"
    if summary.num_scored:
        accepted = summary.num_scored - summary.num_rejected
        share = accepted / summary.num_scored
        yield "filter", f"scored {summary.num_scored:,} images, accepted {accepted:,} of them ({share:.1%})"
    size = f"{summary.num_bytes:,} bytes"
    yield "on disk", f"{size}, {summary.num_bytes / summary.num_groups:.0f} a group" if summary.num_groups else size


def _plural(num: int, one: str, many: str) -> str:
    return f"{num:,} {one if num == 1 else many}"
