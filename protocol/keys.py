"""Who may talk with whom: the key of a run's trainer, those of its producers, and the list of producers that it allows.

CURVE (CurveZMQ, ZeroMQ RFC 26) encrypts and authenticates every connection. A producer knows the trainer's public key,
so nobody can pretend to be the trainer; the trainer knows every producer's, so nobody else gets in. The trainer's
folder holds `trainer.key` and `allowed`; a producer has one file. `penstock keys` makes them.
"""

import json
import os
import re
import stat
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from penstock.protocol.errors import KeyFileError

TRAINER_KEY: Final = "trainer.key"
"""In the trainer's folder: its pair."""
ALLOWED: Final = "allowed"
"""In the trainer's folder: a line for each producer that may connect, its name and its public key."""
_Z85_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""A CURVE key as text: 32 bytes in Z85 (ZeroMQ RFC 32)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE pair, both as 40 characters of Z85."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProducerKey:
    """What a producer needs: its own pair, and the public key of the rank that it dials first."""

    pair: KeyPair
    trainer: str


@dataclass(frozen=True, slots=True)
class TrainerKeys:
    """What a rank needs: the trainer's pair, and who may connect."""

    pair: KeyPair
    allowed: "AllowList"


class AllowList:
    """The producers that may connect, read again whenever its file changes. For any thread.

    Args:
        path: of the file; a line each, NAME KEY.
        own: the trainer's public key: whoever holds its secret may connect, as the run's own producers do.
    """

    def __init__(self, path: Path, own: str) -> None:
        self._path = path
        self._own = own
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._names: Mapping[str, str] = {}
        self.refresh()

    def name(self, public: str) -> str | None:
        """Whose a public key is; None where it is nobody's who may connect. Reads nothing from disk."""
        return "trainer" if public == self._own else self._names.get(public)

    def refresh(self) -> Collection[str]:
        """Read the file again if it has changed. Returns the keys that are no longer allowed.

        Raises:
            KeyFileError: it cannot be read, is open to others, or holds a line that is none; the list stays as it was.
        """
        with self._lock:
            found = _stat(self._path)
            state = (found.st_mtime_ns, found.st_ino, found.st_size)
            if state == self._state:
                return ()
            names = read_allowed(self._path)
            gone = self._names.keys() - names.keys()
            self._names, self._state = names, state
            return gone


def read_trainer_keys(folder: Path) -> TrainerKeys:
    """The trainer's keys, from the folder that `penstock keys init` has made. Raises KeyFileError."""
    stored = _read(folder / TRAINER_KEY, {"public", "secret"})
    pair = KeyPair(stored["public"], stored["secret"])
    return TrainerKeys(pair, AllowList(folder / ALLOWED, pair.public))


def read_producer_key(file: Path) -> ProducerKey:
    """A producer's key, from the file that `penstock keys add` has made, or the trainer's own. Raises KeyFileError."""
    stored = _read(file, {"public", "secret", "trainer"}, {"trainer"})
    return ProducerKey(KeyPair(stored["public"], stored["secret"]), stored.get("trainer", stored["public"]))


def read_allowed(path: Path) -> Mapping[str, str]:
    """Names by public key. Raises KeyFileError."""
    names: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, key = line.strip().partition(" ")
        if not _NAME.fullmatch(name) or not is_key(key):
            raise KeyFileError(f"{path}:{number}: must be NAME KEY; `penstock keys add NAME` writes such lines")
        names[key] = name
    return names


def is_key(text: str) -> bool:
    """Whether a text is a CURVE key as this protocol writes it."""
    return _Z85_KEY.fullmatch(text) is not None


def _read(path: Path, known: Collection[str], optional: Collection[str] = ()) -> dict[str, str]:
    """The keys of a JSON file."""
    try:
        stored = json.loads(_text(path))
    except ValueError as error:
        raise KeyFileError(f"{path} is no key file: {error}; `penstock keys` makes them") from error
    if not isinstance(stored, dict) or not (set(known) - set(optional)) <= stored.keys() <= set(known):
        raise KeyFileError(f"{path} is no key file: it must name {', '.join(sorted(known))}")
    if not all(isinstance(value, str) and is_key(value) for value in stored.values()):
        raise KeyFileError(f"{path} is no key file: a key is 40 characters of Z85")
    return stored


def _text(path: Path) -> str:
    _stat(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}") from error


def _stat(path: Path) -> os.stat_result:
    """Of a file that only its owner may read."""
    try:
        found = path.stat()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}; `penstock keys init` makes the folder") from error
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyFileError(f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}); chmod 600 {path}")
    return found
