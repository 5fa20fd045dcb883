"""A program's settings: its dataclass's defaults, then a YAML file, then flags; each overrides the last.

`--config NAME` reads the preset `NAME.yaml`, `--config PATH` any file. Every other flag is a field of the
dataclass: `--max-steps 20`, `--generator.guidance-scale 2`. tyro makes the flags and the help from the
dataclass, so a field is written down once. All mistakes end as `ConfigError`: one line, exit status 2.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from penstock.config.flags import short_names
from penstock.config.strict_yaml import did_you_mean, read_yaml
from penstock.protocol.errors import ConfigError

T = TypeVar("T")


def load_config(
    cls: type[T],
    argv: Sequence[str],
    *,
    preset_dir: Path,
    prog: str,
    description: str,
    unread: Mapping[str, Any] | None = None,
) -> T:
    """Read a program's settings from its arguments.

    Args:
        cls: a frozen dataclass, nested ones as sections; fields of int, float, bool, str, Path, Literal, unions of
            these and None, tuples of these.
        argv: the arguments without the program's name.
        preset_dir: the folder of `NAME.yaml` presets.
        prog: the program's name in the help.
        description: a sentence or two for the help.
        unread: keys, with their types, that the file may have for other programs which read it too.

    Raises:
        ConfigError: what the user can mend: an unknown key or flag, a wrong type, a file that is not there.
        SystemExit: with status 0 after `--help`.
    """
    argv = _joined(argv)
    default = read_source(cls, _source(argv), preset_dir, unread)
    presets = preset_names(preset_dir)
    program = _program(cls, default, presets)
    with _one_line_errors(prog), _named_flag(argv):
        parsed, extra = tyro.cli(
            program,
            args=list(argv),
            prog=prog,
            description=description,
            return_unknown_args=True,
        )
    if extra:
        raise ConfigError(_explain_extra(extra, flag_names(cls), presets, prog))
    _refuse_empty(argv, cls)
    return typing.cast(T, parsed.settings)


def read_source(
    cls: type[T], source: str | None, preset_dir: Path, unread: Mapping[str, Any] | None = None
) -> T | None:
    """Read what `--config` names, a preset or a path; None where nothing was named. `unread`: as `load_config`."""
    if source is None:
        return None
    preset = preset_dir / f"{source}.yaml"
    looks_like_path = os.sep in source or source.endswith((".yaml", ".yml"))
    if not looks_like_path and preset.is_file():
        return read_yaml(cls, preset, _shown(preset), unread)
    path = Path(source)
    if path.is_file():
        return read_yaml(cls, path, source, unread)
    if path.is_dir():
        raise ConfigError(f"--config {source}: is a folder; name a YAML file or a preset")
    known = preset_names(preset_dir)
    listed = ", ".join(known) or "none"
    if looks_like_path:
        raise ConfigError(f"--config {source}: no such file (presets: {listed})")
    raise ConfigError(f"--config {source}: no such preset{did_you_mean(source, known)} (presets: {listed})")


def preset_names(preset_dir: Path) -> list[str]:
    """The names that `--config` takes, in order."""
    return sorted(path.stem for path in preset_dir.glob("*.yaml"))


def flag_names(cls: type[Any], prefix: str = "--") -> list[str]:
    """Every flag of the dataclass, as the user types it."""
    hints = typing.get_type_hints(cls)
    annotated = typing.get_type_hints(cls, include_extras=True)
    flags: list[str] = []
    for field in dataclasses.fields(cls):
        flag = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            flags += flag_names(hints[field.name], f"{flag}.")
        else:
            flags += [flag, *short_names(annotated[field.name])]
    return flags


def _joined(argv: Sequence[str]) -> list[str]:
    """The arguments with every value that begins as a flag and is none, as in `--train "--seed 1"`, behind a `=`."""
    words: list[str] = []
    for word in argv:
        is_value = word.startswith("-") and any(char.isspace() for char in word.partition("=")[0])
        if is_value and words and words[-1].startswith("--") and "=" not in words[-1]:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


@dataclasses.dataclass
class _Source:
    config: str | None = None


def _source(argv: Sequence[str]) -> str | None:
    """What `--config` names: it must be read before the other flags, because it gives them their defaults."""
    with _one_line_errors("penstock"):
        parsed, _ = tyro.cli(_Source, args=list(argv), add_help=False, return_unknown_args=True)
    return parsed.config


def _program(cls: type[Any], default: object | None, presets: Sequence[str]) -> Any:
    """A dataclass of `--config` and, without a prefix of their own, the fields of `cls`."""
    about = f"A preset ({', '.join(presets) or 'none'}) or the path of a YAML file; flags override it."
    config = Annotated[str | None, tyro.conf.arg(metavar="NAME|PATH", help=about)]
    settings = Annotated[cls, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    start = dataclasses.field() if default is None else dataclasses.field(default_factory=lambda: default)
    fields = [("settings", settings, start), ("config", config, dataclasses.field(default=None))]
    return dataclasses.make_dataclass("Program", fields, kw_only=True)


@contextlib.contextmanager
def _one_line_errors(prog: str) -> Iterator[None]:
    """Turn the box that tyro draws before it exits into a `ConfigError`; `--help` passes."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise ConfigError(_first_paragraph(box.getvalue(), prog)) from error


@contextlib.contextmanager
def _named_flag(argv: Sequence[str]) -> Iterator[None]:
    """Put before a validation error the flag that it is about: the one whose word its text begins with."""
    try:
        yield
    except ConfigError as error:
        field = str(error).partition(" ")[0].rpartition(".")[2].replace("_", "-")
        given = (word.partition("=")[0] for word in argv if word.startswith("--"))
        flag = next((flag for flag in given if re.split(r"[.]|--", flag.replace("_", "-"))[-1] == field), None)
        if flag is None:
            raise
        raise ConfigError(f"{flag}: {error}") from error


def _refuse_empty(argv: Sequence[str], cls: type[Any]) -> None:
    """Refuse a short name with nothing behind it, as `--ask "$SUBJECT"` is without SUBJECT: another run would begin."""
    sections = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cls)}
    short = {flag for flag in flag_names(cls) if "." not in flag} - sections
    for word, following in itertools.pairwise([*argv, "-"]):
        if (word in short and not following) or (word.endswith("=") and word[:-1] in short):
            raise ConfigError(f"{word.removesuffix('=')} is empty; give it a value, or leave it out")


def _first_paragraph(box: str, prog: str) -> str:
    """The text of a drawn box up to its first rule, on one line."""
    lines: list[str] = []
    for line in box.splitlines():
        text = line.strip("│|┃ ")
        if text.startswith(("╭", "╰", "┏", "+")):
            continue
        if text and not text.strip("─━-"):
            break
        lines.append(text)
    message = " ".join(" ".join(lines).split()).removeprefix("Error parsing ")
    message = re.sub(r"^settings\.(\S+:)", r"--\1", message).removeprefix("settings: ")
    message = re.sub(r"invalid literal for int\(\) with base 10: ", "expected an integer, got ", message)
    message = re.sub(r"could not convert string to float: ", "expected a number, got ", message)
    return message or f"arguments not understood; see {prog} --help"


def _explain_extra(extra: Sequence[str], flags: Sequence[str], presets: Sequence[str], prog: str) -> str:
    """The line for the first argument that no field takes."""
    unknown = next((word for word in extra if word.startswith("-")), extra[0]).partition("=")[0]
    if unknown.startswith("-"):
        known = [*flags, "--config", "--help"]
        return f"unknown flag {unknown}{did_you_mean(unknown.replace('_', '-'), known)} (see {prog} --help)"
    hint = f"; did you mean '--config {unknown}'?" if unknown in presets else f" (see {prog} --help)"
    return f"unexpected argument '{unknown}'{hint}"


def _shown(path: Path) -> str:
    """The path as short as it can be read from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative
