"""`penstock export`: a run's images made again as an ordinary data set, for those who do want files."""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.config.process import configure_logging
from penstock.deploy.export_formats import FORMATS, Sample, SampleWriter
from penstock.deploy.export_state import ExportState, begin_or_go_on
from penstock.deploy.progress import with_progress
from penstock.deploy.recorded import OneLineParser, add_engine, add_run, counted, open_ledger, open_remaker
from penstock.deploy.replay import Tally
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import prompt_id

if TYPE_CHECKING:
    import argparse

    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.consumer.ledger_reader import LedgerReader
    from penstock.deploy.remaking import Remade

PROG = "penstock export"
DESCRIPTION = """\
Make a run's images again and write them as a data set: every group once, each image with its caption and with what
made it (prompt id, seed, index, step, concept, guidance, digest of the producer's manifest)."""
EXAMPLE = """\
example:
  penstock export runs/demo --format webdataset --out exported
      exported/train-000000.tar ...: KEY.png, KEY.txt, KEY.json, and KEY.cls where every group has a concept
  penstock export runs/demo --format folder --out faces --steps 0:100 --codec jpeg
      faces/000000/*.jpg and faces/metadata.jsonl, as Hugging Face's imagefolder reads it:
      load_dataset("imagefolder", data_dir="faces")
  penstock train --real.source exported --real.split train --real.fraction 1 ...
      trains on the files as on any real images

The same command goes on with an export that was stopped. A folder that holds anything else is refused. The status is 1
where a group's checksum differs from the ledger's; its images are written all the same, with `"verified": false`.
"""
STATE = ".penstock-export.json"


def main(argv: Sequence[str]) -> int:
    """Remake and write. Returns 1 where a checksum differs."""
    options = _parse(argv)
    configure_logging("export")
    with open_ledger(options.run) as ledger:
        first, last = _steps(ledger, options.steps)
        labelled = all(group.concept for group in _groups(ledger, first, last, options.limit))
        state = begin_or_go_on(options.out / STATE, options.out, _settings(options, ledger, first, last))
        if state.finished:
            what = f"{counted(state.num_samples, 'image')} in {counted(state.num_shards, 'shard')}"
            print(f"{options.out} is complete: {what}{_differing(state.num_differing)}")
            return 1 if state.num_differing else 0
        groups = islice(_groups(ledger, first, last, options.limit), state.num_groups, None)
        total = _num_groups(ledger, first, last, options.limit)
        writer = FORMATS[options.format](options.out, codec=options.codec, quality=options.quality, labelled=labelled)
        tally = Tally()
        with open_remaker(options) as remaker:
            remade = with_progress(remaker.remake(groups), total, done=state.num_groups)
            _write(options, state, writer, _counted(remade, tally))
    what = f"{counted(state.num_samples, 'image')} of {counted(state.num_groups, 'group')}"
    earlier = _differing(state.num_differing - tally.differing)
    print(f"{tally.describe()}: {what} in {counted(state.num_shards, 'shard')}{earlier}")
    print(f"data set  {options.out}")
    return 1 if state.num_differing else 0


def _differing(num_groups: int) -> str:
    """What an earlier try has found; empty where that is nothing."""
    return f"; {counted(num_groups, 'group')} written before differ" if num_groups else ""


def _parse(argv: Sequence[str]) -> "argparse.Namespace":
    parser = OneLineParser(PROG, DESCRIPTION, EXAMPLE)
    add_run(parser)
    parser.add_argument("--format", choices=sorted(FORMATS), default="webdataset", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the data set, new or empty")
    parser.add_argument("--steps", default="", metavar="A:B", help="only what the steps A to B - 1 used (default: all)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most so many groups (default: all)")
    parser.add_argument("--codec", choices=("png", "jpeg"), default="png", help="png keeps every bit (default: png)")
    parser.add_argument("--quality", type=int, default=92, metavar="Q", help="of jpeg, 1 to 100 (default: 92)")
    parser.add_argument(
        "--shard-mb", type=int, default=256, metavar="MB", help="a shard is closed beyond so many MB (default: 256)"
    )
    add_engine(parser)
    options = parser.parse_args(argv)
    for name, value, low, high in (
        ("--limit", options.limit, 0, sys.maxsize),
        ("--quality", options.quality, 1, 100),
        ("--shard-mb", options.shard_mb, 1, 1_000_000),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} must be in [{low}, {high}], got {value}")
    return options


def _steps(ledger: "LedgerReader", text: str) -> tuple[int, int] | tuple[None, None]:
    """The first step and the one after the last; None for all that the ledger holds. Raises ConfigError."""
    if not text:
        if not ledger.num_groups:
            raise ConfigError("the ledger holds no group yet")
        return None, None
    first, colon, last = text.partition(":")
    try:
        begin, end = int(first or 0), int(last) if last else ledger.steps.stop
    except ValueError:
        begin, end, colon = 0, 0, ""
    if not colon or not 0 <= begin < end:
        raise ConfigError(f"--steps must be A:B with 0 <= A < B, got {text!r}")
    if not ledger.steps or begin not in ledger.steps or end - 1 not in ledger.steps:
        there = f"it has the steps {ledger.steps.start}:{ledger.steps.stop}" if ledger.steps else "it has no step yet"
        raise ConfigError(f"--steps {text} is not in the ledger; {there}")
    return begin, end


def _groups(ledger: "LedgerReader", first: int | None, last: int | None, limit: int) -> "Iterator[LedgerGroup]":
    """Every group once, by index; of given steps step after step."""
    found = ledger.groups() if first is None or last is None else _used(ledger, range(first, last))
    return islice(found, limit or None)


def _used(ledger: "LedgerReader", steps: range) -> "Iterator[LedgerGroup]":
    seen: set[int] = set()
    for group in chain.from_iterable(ledger.groups(step=step) for step in steps):
        if group.index not in seen:
            seen.add(group.index)
            yield group


def _num_groups(ledger: "LedgerReader", first: int | None, last: int | None, limit: int) -> int:
    if first is None:
        return min(ledger.num_groups, limit or ledger.num_groups)
    return sum(1 for _ in _groups(ledger, first, last, limit))


def _settings(
    options: "argparse.Namespace", ledger: "LedgerReader", first: int | None, last: int | None
) -> dict[str, object]:
    """What decides which files the export has: another export must not go on with them."""
    return {
        "run": str(options.run.resolve()),
        "format": options.format,
        "steps": None if first is None else [first, last],
        "limit": options.limit,
        "codec": options.codec,
        "quality": options.quality if options.codec == "jpeg" else None,
        "shard_mb": options.shard_mb,
        "num_groups": ledger.num_groups,
    }


def _write(options: "argparse.Namespace", state: ExportState, writer: SampleWriter, remade: "Iterator[Remade]") -> None:
    """Fill shard after shard; what is whole is noted, so that the next try begins after it. Raises ConfigError."""
    num_groups = num_samples = num_differing = 0
    try:
        writer.begin(state.num_shards)
        for each in remade:
            for sample in _samples(each):
                writer.add(sample)
                num_samples += 1
            num_groups += 1
            num_differing += each.matches is False
            if writer.nbytes >= options.shard_mb * 1_000_000:
                writer.end()
                state.shard_done(num_groups, num_samples, num_differing)
                num_groups = num_samples = num_differing = 0
                writer.begin(state.num_shards)
        writer.end()
        state.shard_done(num_groups, num_samples, num_differing, finished=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out} cannot be written: {error.strerror or error}") from error


def _samples(remade: "Remade") -> Iterator[Sample]:
    """The images of a group with what is known of each."""
    group, recipe = remade.group, remade.group.recipe
    about = {
        "prompt_id": prompt_id(recipe.prompt),
        "index": group.index,
        "step": group.first_step,
        "concept": group.concept,
        "model_digest": recipe.model_digest,
        "manifest": group.manifest.digest,
        "producer": group.producer,
        "verified": remade.matches,
    }
    of_images = zip(remade.images, recipe.image_seeds, recipe.image_scales, strict=True)
    for place, (image, seed, scale) in enumerate(of_images):
        key = f"{group.index:09d}-{place:02d}"
        own = {"image_in_group": place, "seed": seed, "guidance_scale": float(scale)}
        yield Sample(key=key, image=image, caption=recipe.prompt, about=about | own, label=group.concept)


def _counted(remade: "Iterator[Remade]", tally: Tally) -> "Iterator[Remade]":
    for each in remade:
        tally.add(each)
        yield each
