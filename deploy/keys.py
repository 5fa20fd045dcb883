"""`penstock keys`: makes the keys of a run's trainer and of its producers, and says who may connect.

It only writes files. A trainer that runs looks at the list every second, so nothing is to be restarted.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.deploy.columns import print_columns
from penstock.deploy.recorded import OneLineParser
from penstock.protocol import key_files
from penstock.protocol.allow_list import Allowed, is_key, is_name, parse_allowed, short
from penstock.protocol.errors import ConfigError, KeyFileError

if TYPE_CHECKING:
    import argparse

PROG = "penstock keys"
DESCRIPTION = """\
Keys of a run. With them every connection is encrypted, a producer talks only with its own trainer, and a trainer only
with the producers on its list; a trainer that others can reach needs them. DIR is the folder that the trainer gets with
--stream.keys; each producer gets one file of it with --key, and nothing else."""
EXAMPLE = """\
example:
  penstock keys init keys                       the trainer's key, and a list of nobody
  penstock keys add keys node-7                 keys/node-7.key, for one producer or for all of a machine
  scp keys/node-7.key node-7:                   over a way that you trust: it is a secret
  penstock train --stream.keys keys --stream.endpoint 'tcp://*:5599'
  penstock produce --key node-7.key --connect tcp://TRAINER:5599
  penstock keys list keys
  penstock keys revoke keys node-7              also while the run goes on
"""
_HEADING = "# NAME KEY DATE: who may connect. `penstock keys` writes it, and a trainer that runs reads it.\n"


def main(argv: Sequence[str]) -> int:
    """Do what is asked. Raises ConfigError, KeyFileError."""
    options = _parse(argv)
    folder: Path = options.folder.expanduser()
    match options.verb:
        case "init":
            _init(folder)
        case "add":
            _add(folder, options.name, options.public, options.out)
        case "revoke":
            _revoke(folder, options.name)
        case _:
            _list(folder)
    return 0


def _parse(argv: Sequence[str]) -> "argparse.Namespace":
    parser = OneLineParser(PROG, DESCRIPTION, EXAMPLE)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="init|add|revoke|list", parser_class=_VerbParser)
    for verb, what in (
        ("init", "make the folder, the trainer's key, and a list of nobody"),
        ("add", "let a producer in: make its key, or take the public one that it has made"),
        ("revoke", "let a producer in no more, also while a run goes on"),
        ("list", "say who may connect"),
    ):
        of = verbs.add_parser(verb, help=what)
        of.add_argument("folder", type=Path, metavar="DIR", help="the trainer's folder of keys")
        if verb in ("add", "revoke"):
            of.add_argument("name", metavar="NAME", help="what the key is called in logs: its machine, its owner")
        if verb == "add":
            of.add_argument("--public", default="", metavar="KEY", help="a public key, as --public='KEY'")
            of.add_argument("--out", type=Path, metavar="FILE", help="where to put the key (default: DIR/NAME.key)")
    return parser.parse_args(argv)


class _VerbParser(OneLineParser):
    """Of one of the four."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, "", "")


def _init(folder: Path) -> None:
    from penstock.protocol.keys import ALLOWED, TRAINER_KEY, make_pair, trainer_text

    try:
        folder.mkdir(mode=key_files.FOLDER_MODE, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise KeyFileError(f"{folder} is a file; DIR is a folder of its own") from error
    except OSError as error:
        raise KeyFileError(f"{folder} cannot be made: {error.strerror}") from error
    key_files.check_folder(folder)
    pair = make_pair()
    with _alone(folder):
        key_files.write_new(folder / TRAINER_KEY, trainer_text(pair))
        key_files.write_new(folder / ALLOWED, _HEADING)
    print(f"made {folder / TRAINER_KEY}, which is a secret, and {folder / ALLOWED}, which names nobody yet")
    print(f"next: penstock keys add {folder} NAME, for each producer; give the trainer --stream.keys {folder}")


def _add(folder: Path, name: str, public: str, out: Path | None) -> None:
    from penstock.protocol.keys import make_pair, producer_text, read_trainer_pair

    if not is_name(name):
        raise ConfigError(
            f"NAME must be letters, digits, `.`, `_` and `-`, at most 64, and not `trainer`, got {name!r}"
        )
    if public and not is_key(public):
        raise ConfigError(f"--public must be a public key, 40 characters of Z85, got {public!r}")
    if public and out:
        raise ConfigError("--public makes no file: leave out --out")
    with _alone(folder):
        trainer, allowed = read_trainer_pair(folder), _read_list(folder)
        for other in allowed:
            if other.name == name:
                raise ConfigError(f"{name} is there already, since {other.since or 'an unknown day'}; revoke it first")
            if public == other.key:
                raise ConfigError(f"this key is there already, as {other.name}")
        if public == trainer.public:
            raise ConfigError("this is the trainer's own key")
        file = (out or folder / f"{name}.key").expanduser()
        if is_made := not public:
            pair = make_pair()
            # The file first: of a list without it nobody would know the secret.
            key_files.write_new(file, producer_text(pair, trainer.public))
            public = pair.public
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        _write_list(folder, [*allowed, Allowed(name, public, since)])
    if is_made:
        print(f"made {file}: give it to the producer over a way that you trust, and delete it here")
        print(f"next: penstock produce --key {file.name} --connect tcp://TRAINER:PORT")
        return
    print(f"{name} may connect with {short(public)}; the trainer's public key is {trainer.public}")


def _revoke(folder: Path, name: str) -> None:
    with _alone(folder):
        allowed = _read_list(folder)
        gone = next((other for other in allowed if other.name == name), None)
        if gone is None:
            names = ", ".join(other.name for other in allowed) or "nobody"
            raise ConfigError(f"{folder} lets in no {name}; it lets in {names}")
        _write_list(folder, [other for other in allowed if other is not gone])
        file = folder / f"{name}.key"
        had_file = file.is_file()
        file.unlink(missing_ok=True)
    print(f"revoked {name} ({short(gone.key)}){f'; {file} is deleted' if had_file else ''}")
    print(
        "a trainer that runs sees it within two seconds: it takes no more messages of that key, ends its connections,"
    )
    print("and gives its tickets to others. What it had sent before stays in use: `penstock ledger RUN` says what")


def _list(folder: Path) -> None:
    from penstock.protocol.keys import read_trainer_pair

    trainer, allowed = read_trainer_pair(folder), _read_list(folder)
    print(f"trainer's public key: {trainer.public}")
    if not allowed:
        print(f"nobody else may connect; penstock keys add {folder} NAME")
        return
    print_columns(("name", "key", "since"), ((each.name, each.key, each.since or "?") for each in allowed))
    print("the trainer's log says who of them is connected")


def _read_list(folder: Path) -> Sequence[Allowed]:
    from penstock.protocol.keys import ALLOWED

    path = folder / ALLOWED
    return parse_allowed(key_files.read_private(path), str(path))


def _write_list(folder: Path, allowed: Sequence[Allowed]) -> None:
    from penstock.protocol.keys import ALLOWED

    key_files.replace(folder / ALLOWED, _HEADING + "".join(f"{each.line}\n" for each in allowed))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two that change a folder at a time do it one after the other. Raises KeyFileError where there is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeyFileError(f"{folder}: {error.strerror}; `penstock keys init {folder}` makes it") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
