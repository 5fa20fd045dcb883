"""`penstock profile`: which side bounds a run, and what would make it faster; and two such profiles side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from penstock.config.process import printable, shown_width
from penstock.deploy.recorded import OneLineParser
from penstock.protocol.errors import ConfigError
from penstock.telemetry.profile.compare import compare
from penstock.telemetry.profile.summary import ProfileSummary, read_summary
from penstock.telemetry.profile.text import table
from penstock.telemetry.summary import BOX_WIDTH

TOLERANCE = 0.05
"""Share by which a rate may fall."""
DESCRIPTION = """\
Hold profile B against profile A: what the run reached, and what fleet, wire, host and trainer could do alone.
The status is 0 where no rate fell by more than the tolerance, 1 where one did or is no longer measured, 2 where the two
cannot be compared."""
EXAMPLE = """\
example:
  penstock profile --config demo --out runs/profile-a
  penstock profile --config demo --out runs/profile-b      # another version, another machine, other settings
  penstock profile compare runs/profile-a runs/profile-b --tolerance 0.1
"""


def main(argv: Sequence[str]) -> int:
    """Measure, or compare. Returns the exit status: of a comparison, 1 where something became slower."""
    if argv and argv[0] == "compare":
        return _compare(argv[1:])
    from penstock.consumer.profiled import main as measure

    return measure(argv)


def _compare(argv: Sequence[str]) -> int:
    options = _parse(argv)
    comparison = compare(_read(options.a), _read(options.b), options.tolerance)
    # The files may come from elsewhere.
    print(printable(table(comparison, options.tolerance, shown_width(BOX_WIDTH)), keep="\n"))
    if not comparison.changes:
        return 2
    return 1 if comparison.regressions or comparison.lost else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser("penstock profile compare", DESCRIPTION, EXAMPLE)
    parser.add_argument("a", type=Path, metavar="A", help="folder of the profile that is the base, or its summary.json")
    parser.add_argument("b", type=Path, metavar="B", help="folder of the profile that is held against it")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="SHARE",
        help=f"share by which a rate may fall; more lets noise pass, and slowness (default: {TOLERANCE:g})",
    )
    options = parser.parse_args(argv)
    if not 0 <= options.tolerance < 1:
        raise ConfigError(f"--tolerance must be in [0, 1), got {options.tolerance:g}")
    return options


def _read(path: Path) -> ProfileSummary:
    """Raises ConfigError where there is no profile."""
    try:
        return read_summary(path)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path}: {error.strerror} (`penstock profile --out DIR` writes it)"
        ) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
