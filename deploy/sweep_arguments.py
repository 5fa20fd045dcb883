"""What `penstock sweep` is asked for: a setting, its values, seeds, and flags of the trainer that all arms share."""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.config.load import flag_names
from penstock.config.strict_yaml import did_you_mean
from penstock.consumer.config import TrainConfig
from penstock.protocol.errors import ConfigError

PROG = "penstock sweep"

ALIASES: Mapping[str, str] = {
    "guidance": "--generator.guidance-scale",
    "m": "--generator.images-per-group",
    "reuse": "--reservoir.reuse",
    "objective": "--objective.name",
    "temperature": "--objective.temperature",
    "lr": "--optimizer.base-lr",
}
"""Short names of the settings that are swept most."""

_OWN = {
    "--run-dir": "each arm has a folder of its own below --out",
    "--resume": "an arm that has a checkpoint goes on by itself",
    "--seed": "give --seeds",
}
"""Flags of the trainer that the sweep gives itself, and what to do instead."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What the command line asks for."""

    name: str
    """The setting, as it was typed."""
    flag: str
    """Its flag."""
    values: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path
    is_fixed: bool
    """Whether arms are held to equal images, where a setting would change their number."""
    parallel: int
    """Arms at a time."""
    overwrite: bool
    """Whether arms that were run with other settings may be deleted."""
    flags: tuple[str, ...]
    """What all arms share: flags of `penstock train`."""


def parse(argv: Sequence[str]) -> Sweep:
    """Read the command line, `NAME=V1,V2,...` first. Raises ConfigError."""
    setting, *rest = argv or [""]
    name, equals, listed = setting.partition("=")
    if not equals or name.startswith("-"):
        raise ConfigError(f"say first what to sweep, such as guidance=1,2,3 (see {PROG} --help)")
    parser = argparse.ArgumentParser(prog=PROG, add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", default=f"runs/sweep-{as_file_name(name)}")
    parser.add_argument("--fix", choices=("images", "none"), default="images")
    parser.add_argument("--parallel", default="1")
    parser.add_argument("--overwrite", action="store_true")
    try:
        options, flags = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error.argument_name}: {error.message} (see {PROG} --help)") from error
    for word in flags:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in _OWN:
            raise ConfigError(f"{flag} is the sweep's own: {_OWN[flag]}")
    return Sweep(
        name=name,
        flag=_flag_of(name),
        values=_read_values(name, listed),
        seeds=_read_seeds(options.seeds),
        out=Path(options.out),
        is_fixed=options.fix == "images",
        parallel=whole("--parallel", options.parallel, least=1),
        overwrite=options.overwrite,
        flags=tuple(flags),
    )


def _flag_of(name: str) -> str:
    """The flag of the trainer that an alias or a dotted name means."""
    known = [flag for flag in flag_names(TrainConfig) if flag not in _OWN and flag != "--overwrite"]
    flag = ALIASES.get(name, f"--{name.replace('_', '-')}")
    if flag in _OWN:
        raise ConfigError(f"{name} cannot be swept: {_OWN[flag]}")
    if flag not in known:
        near = did_you_mean(name, [*ALIASES, *(flag.removeprefix("--") for flag in known)])
        raise ConfigError(f"no such setting: {name}{near} (see penstock train --help)")
    return flag


def _read_values(name: str, listed: str) -> tuple[str, ...]:
    values = tuple(value.strip() for value in listed.split(","))
    if "" in values:
        raise ConfigError(f"{name}={listed}: a value is empty")
    if len(values) < 2:
        raise ConfigError(f"{name}={listed}: give two values or more, with commas between")
    if len({as_file_name(value) for value in values}) < len(values):
        raise ConfigError(f"{name}={listed}: a value is given twice")
    return values


def _read_seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(whole("--seeds", seed, least=0) for seed in text.split(","))
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: a seed is given twice")
    return seeds


def whole(what: str, text: str, least: int) -> int:
    """The number that `text` says. Raises ConfigError where it is none, or below `least`."""
    if not text.strip().isdecimal() or int(text) < least:
        raise ConfigError(f"{what} must be whole numbers >= {least}, got {text!r}")
    return int(text)


def as_file_name(text: str) -> str:
    """`text` as it can stand in a path."""
    return re.sub(r"[^\w.+-]+", "_", text).strip(".") or "_"
