"""The command lines of the verbs that read a finished or running run: its folder, and who makes its images again."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from penstock.protocol.errors import ConfigError, RunError

if TYPE_CHECKING:
    from penstock.consumer.ledger_reader import LedgerReader
    from penstock.deploy.remaking import Remaker


class OneLineParser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, as those of all other verbs are.

    Args:
        prog: the verb as it is typed.
        description: a sentence or two.
        example: what a user could type, line by line, and what follows from it.
    """

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run's folder, which comes first."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run, finished or still going on")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """What the ledger cannot know: where weights and sets lie on this machine."""
    engine = parser.add_argument_group("who makes the images again")
    engine.add_argument(
        "--model", default="", help="folder or hub id of the generator; not needed for the one that comes with Penstock"
    )
    engine.add_argument("--tiny-autoencoder", default="", help="folder or hub id, where the producers decoded with one")
    engine.add_argument("--images", default="", help="set of the run's real images, as --real.source named it")
    engine.add_argument("--images-split", default="", help="split of that set")
    engine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: as the producers' was)")


def open_remaker(options: argparse.Namespace) -> "Remaker":
    """The remaker that the flags of `add_engine` describe."""
    from penstock.deploy.remaking import Remaker

    return Remaker(
        model=options.model,
        tiny_autoencoder=options.tiny_autoencoder,
        images=options.images,
        images_split=options.images_split,
        device=options.device,
    )


def open_ledger(run_dir: Path) -> "LedgerReader":
    """The ledgers of all ranks. Raises ConfigError where the folder is no run's, or has none."""
    from penstock.consumer.ledger_reader import LedgerReader

    try:
        return LedgerReader(run_dir)
    except RunError as error:
        raise ConfigError(str(error)) from error


def counted(num: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{num:,} {what}" if num == 1 else f"{num:,} {what}s"


def shortened(words: Sequence[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
