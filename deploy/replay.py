"""`penstock replay`: the very images of a step, made again and held to their checksums."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.config.process import configure_logging
from penstock.deploy.recorded import OneLineParser, add_engine, add_run, counted, open_ledger, open_remaker
from penstock.protocol.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.consumer.ledger_reader import LedgerReader
    from penstock.deploy.remaking import Remade, Remaker
    from penstock.telemetry.group_sheet import SheetGroup

PROG = "penstock replay"
DESCRIPTION = """\
Make the images of a training step again, or those of single groups, and check them against the checksums that the
ledger kept. No image of the run was stored: its recipes make them again, bit for bit."""
EXAMPLE = """\
example:
  penstock demo
  penstock replay runs/demo --step 120 --out grid.png
      prints `32 of 32 groups match: 256 images, as the trainer had them` and draws step 120's batch, in its order,
      each prompt beside the images that the step used of it
  penstock replay runs/demo --index 17 --index 42 --out two.png
      all images of two groups

The status is 0 where no checksum differs, 1 where one does or a group cannot be made, 2 where the engine or the step is
not there. Where the producers' engine cannot be had here (another GPU, another version of torch) a line says what
differs, and a group of other bits counts as one that cannot be checked.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A group that is to be made again, and what of it is shown."""

    group: "LedgerGroup"
    images: tuple[int, ...]
    """Places in the group."""
    note: str


@dataclass(slots=True)
class Tally:
    """How the checks ended, in groups."""

    matching: int = 0
    differing: int = 0
    unchecked: int = 0

    def add(self, remade: "Remade") -> None:
        """Count one more."""
        self.matching += remade.matches is True
        self.differing += remade.matches is False
        self.unchecked += remade.matches is None

    @property
    def num_groups(self) -> int:
        """All of them."""
        return self.matching + self.differing + self.unchecked

    def describe(self) -> str:
        """One line, without its end."""
        parts = [f"{self.matching:,} of {counted(self.num_groups, 'group')} match"]
        if self.differing:
            parts.append(f"{self.differing:,} differ")
        if self.unchecked:
            parts.append(f"{self.unchecked:,} cannot be checked")
        return ", ".join(parts)


def main(argv: Sequence[str]) -> int:
    """Remake, check, draw. Returns 1 where a checksum differs."""
    options = _parse(argv)
    configure_logging("replay")
    with open_ledger(options.run) as ledger, open_remaker(options) as remaker:
        wanted = list(
            _of_step(ledger, options.step) if options.step is not None else _of_indices(ledger, options.index)
        )
        shown, tally = _remake(wanted, remaker, keeps=options.out is not None)
        num_images = sum(len(each.images) for each in wanted)
        title = f"step {options.step}" if options.step is not None else f"groups of {options.run.resolve().name}"
        if options.out is not None:
            _draw(options, title, num_images, shown, tally)
    verdict = ", as the trainer had them" if tally.matching == tally.num_groups else ""
    print(f"{tally.describe()}: {counted(num_images, 'image')}{verdict}")
    if options.out is not None:
        print(f"picture  {options.out}")
    return 1 if tally.differing else 0


def _parse(argv: Sequence[str]) -> "argparse.Namespace":
    parser = OneLineParser(PROG, DESCRIPTION, EXAMPLE)
    add_run(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="K", help="the batch of this optimizer step, in its order")
    which.add_argument("--index", type=int, action="append", metavar="I", help="a group, whole; may be given again")
    parser.add_argument("--out", type=Path, metavar="PNG", help="draw the prompts and their images")
    add_engine(parser)
    options = parser.parse_args(argv)
    if options.out is not None:
        check_file(options.out, ".png")
    return options


def check_file(path: Path, suffix: str) -> None:
    """Raise ConfigError where a file cannot be written there: before anything is made that would be lost."""
    if path.suffix.lower() != suffix:
        raise ConfigError(f"--out {path}: the name must end in {suffix}")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: no such folder: {path.parent}")


def _of_step(ledger: "LedgerReader", step: int) -> Iterator[Wanted]:
    """What a step used. Raises ConfigError where the ledger does not hold it."""
    if step not in ledger.steps:
        last = f"its steps are {ledger.steps[0]} to {ledger.steps[-1]}" if ledger.steps else "it has no step yet"
        raise ConfigError(f"--step {step} is not in the ledger; {last}")
    for use in ledger.uses(step):
        yield Wanted(use.group, use.images, f"group {use.group.index} · use {use.echo + 1}")


def _of_indices(ledger: "LedgerReader", indices: Sequence[int]) -> Iterator[Wanted]:
    """Whole groups. Raises ConfigError where the ledger does not hold one."""
    for index in indices:
        found = list(ledger.groups(index=index))
        if not found:
            raise ConfigError(
                f"--index {index} is not in the ledger, which holds {counted(ledger.num_groups, 'group')}"
            )
        for group in found:
            yield Wanted(group, tuple(range(group.recipe.num_images)), f"group {index} · step {group.first_step}")


def _remake(wanted: Sequence[Wanted], remaker: "Remaker", *, keeps: bool) -> "tuple[list[SheetGroup], Tally]":
    """What is to be drawn, where that is kept, and how the checks ended. A step's images whole are gigabytes."""
    from penstock.telemetry.group_sheet import SheetGroup, shrink

    tally = Tally()
    shown = []
    for each, remade in zip(wanted, remaker.remake(each.group for each in wanted), strict=True):
        tally.add(remade)
        differs = remade.matches is False
        if differs:
            print(f"group {remade.group.index} differs from its checksum {remade.group.crc32:08x}: {_prompt(remade)}")
        if not keeps:
            continue
        prompt, images = remade.group.recipe.prompt, remade.images[list(each.images)]
        note = f"{each.note} · CHECKSUM DIFFERS" if differs else each.note
        shown.append(SheetGroup(prompt=prompt, note=note, images=shrink(images), is_wrong=differs))
    return shown, tally


def _prompt(remade: "Remade") -> str:
    return f"{remade.group.recipe.prompt!r:.80}"


def _draw(
    options: "argparse.Namespace", title: str, num_images: int, shown: "Sequence[SheetGroup]", tally: Tally
) -> None:
    """Write the sheet. Raises ConfigError where the file cannot be written."""
    from PIL import Image

    from penstock.telemetry.group_sheet import draw_sheet

    run = options.run.resolve().name
    subtitle = f"{run} · {counted(num_images, 'image')} made again · {tally.describe()}"
    sheet = draw_sheet(title, subtitle, shown, is_wrong=tally.differing > 0)
    try:
        Image.fromarray(sheet).save(options.out)
    except OSError as error:
        raise ConfigError(f"--out {options.out} cannot be written: {error.strerror or error}") from error
