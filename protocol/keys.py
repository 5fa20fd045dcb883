"""Who may talk with whom: the key of a run's trainer, those of its producers, and the list of producers that it allows.

CURVE (CurveZMQ, ZeroMQ RFC 26) encrypts and authenticates every connection. A producer knows the trainer's public key,
so nobody can pretend to be the trainer; the trainer knows every producer's, so nobody else gets in. The trainer's
folder holds `trainer.key` and `allowed`; a producer has one file. `penstock keys` makes them.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from penstock.protocol.allow_list import AllowList, is_key
from penstock.protocol.errors import KeyFileError
from penstock.protocol.key_files import read_private

TRAINER_KEY: Final = "trainer.key"
"""In the trainer's folder: its pair."""
ALLOWED: Final = "allowed"
"""In the trainer's folder: a line for each producer that may connect, its name and its public key."""


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
    file: str = ""
    """Where it was read, for whoever has to mend it."""


@dataclass(frozen=True, slots=True)
class TrainerKeys:
    """What a rank needs: the trainer's pair, and who may connect."""

    pair: KeyPair
    allowed: AllowList


def make_pair() -> KeyPair:
    """A new pair. Raises KeyFileError where the installed ZeroMQ has no CURVE."""
    import zmq  # not loaded where keys are only read

    if not zmq.has("curve"):
        raise KeyFileError("the installed libzmq was built without CURVE; `pip install pyzmq` brings one that has it")
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def read_trainer_keys(folder: Path) -> TrainerKeys:
    """The trainer's keys, from the folder that `penstock keys init` has made. Raises KeyFileError."""
    pair = read_trainer_pair(folder)
    return TrainerKeys(pair, AllowList(folder / ALLOWED, pair.public))


def read_trainer_pair(folder: Path) -> KeyPair:
    """The trainer's pair alone. Raises KeyFileError."""
    stored = _read(folder / TRAINER_KEY, {"public", "secret"})
    return KeyPair(stored["public"], stored["secret"])


def read_producer_key(file: Path) -> ProducerKey:
    """A producer's key, from the file that `penstock keys add` has made, or the trainer's own. Raises KeyFileError."""
    stored = _read(file, {"public", "secret", "trainer"}, {"trainer"})
    pair = KeyPair(stored["public"], stored["secret"])
    return ProducerKey(pair, stored.get("trainer", stored["public"]), str(file))


def trainer_text(pair: KeyPair) -> str:
    """What `read_trainer_pair` reads."""
    return _text({"public": pair.public, "secret": pair.secret})


def producer_text(pair: KeyPair, trainer: str) -> str:
    """What `read_producer_key` reads."""
    return _text({"public": pair.public, "secret": pair.secret, "trainer": trainer})


def _text(stored: dict[str, str]) -> str:
    return json.dumps(stored, indent=2) + "\n"


def _read(path: Path, known: Collection[str], optional: Collection[str] = ()) -> dict[str, str]:
    """The keys of a JSON file."""
    try:
        stored = json.loads(read_private(path))
    except ValueError as error:
        raise KeyFileError(f"{path} is no key file: it holds no JSON; `penstock keys add` makes one") from error
    if not isinstance(stored, dict) or not (set(known) - set(optional)) <= stored.keys() <= set(known):
        raise KeyFileError(f"{path} is no key file: it must name {', '.join(sorted(known))}")
    if not all(isinstance(value, str) and is_key(value) for value in stored.values()):
        raise KeyFileError(f"{path} is no key file: a key is 40 characters of Z85")
    return stored
