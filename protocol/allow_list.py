"""The producers that may connect to a run: a file that is changed while the run goes on.

`NAME KEY DATE`, a line each. It is looked at every second and at every key that is not known; a key that leaves it is
revoked. Whoever edits it by hand may be seen in the middle of writing, and half a list would revoke half a fleet, so
what a file lacks counts only once it has stayed as it is for a second; what it has more counts at once.
"""

import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.protocol.errors import KeyFileError
from penstock.protocol.key_files import look_at, read_private

OWN: Final = "trainer"
"""What the ranks' own keys are called, which the run's own producers have, too. No producer's key is."""
_STAYS_S: Final = 0.9
_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""A CURVE key as text: 32 bytes in Z85 (ZeroMQ RFC 32)."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_State = tuple[int, int, int]
"""What tells a file from what it was: its time, its inode, its size."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A producer that may connect."""

    name: str
    key: str
    since: str = ""
    """When it was added, as ISO 8601 in UTC; empty where nobody wrote it down."""

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return " ".join(part for part in (self.name, self.key, self.since) if part)


def is_key(text: str) -> bool:
    """Whether a text is a CURVE key as this protocol writes it."""
    return _KEY.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a producer's key may be called so."""
    return _NAME.fullmatch(text) is not None and text != OWN


def short(key: str) -> str:
    """Enough of a public key to know it again."""
    return f"{key[:8]}…"


def read_allowed(path: Path) -> Sequence[Allowed]:
    """The list in a file. Raises KeyFileError."""
    return parse_allowed(read_private(path), str(path))


def parse_allowed(text: str, where: str) -> Sequence[Allowed]:
    """The list in the text of the file `where`. Raises KeyFileError."""
    found: list[Allowed] = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) not in (2, 3) or not is_name(parts[0]) or not is_key(parts[1]):
            raise KeyFileError(f"{where}:{number}: must be NAME KEY [DATE]; `penstock keys add` writes such lines")
        for other in found:
            if parts[0] == other.name or parts[1] == other.key:
                raise KeyFileError(f"{where}:{number}: {parts[0]} has the name or the key of {other.name}; remove one")
        found.append(Allowed(*parts))
    return found


class AllowList:
    """The producers that may connect, read again whenever its file changes. For any thread.

    Args:
        path: of the file.
        own: the trainer's public key: whoever holds its secret may connect, as the run's own producers do.
    """

    def __init__(self, path: Path, own: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._own = frozenset({own})
        self._state: _State | None = _state(path)  # before it is read: what changes in between is seen
        self._settled: Mapping[str, str] = {allowed.key: allowed.name for allowed in read_allowed(path)}
        """As the file was when it had stayed so."""
        self._names: Mapping[str, str] = self._settled
        self._seen: _State | None = self._state
        self._seen_at = float("-inf")
        self.generation = 0
        """Another one as soon as the list is."""

    def name(self, public: str) -> str | None:
        """Whose a public key is; None where it is nobody's who may connect. Reads nothing from disk."""
        return OWN if public in self._own else self._names.get(public)

    def admit_ranks(self, keys: Collection[str]) -> None:
        """Let in the run's own producers of the other ranks, too: each holds the key of the rank that started it."""
        with self._lock:
            self._own |= frozenset(keys)

    def refresh(self, now: float) -> bool:
        """Read the file again if it has changed. Returns whether the list has.

        Args:
            now: the time, in seconds on a monotonic clock.

        Raises:
            KeyFileError: for a second it could not be read, was open to others, or held a line that is none; the list
                stays as it was.
        """
        with self._lock:
            before = self._names
            state, found, why = self._look()
            if state != self._seen:
                self._seen, self._seen_at = state, now
            stays = now - self._seen_at >= _STAYS_S
            if why is not None:
                if stays:
                    raise why
                return False
            if stays or state == self._state:
                self._names = self._settled = found
                self._state = state
            else:
                self._names = {**before, **found}
            self.generation += self._names != before
            return self._names != before

    def _look(self) -> tuple[_State | None, Mapping[str, str], KeyFileError | None]:
        """The file's state, and the names in it; or why there are none."""
        try:
            state = _state(self.path)
            if state == self._state:
                return state, self._settled, None
            found = {allowed.key: allowed.name for allowed in read_allowed(self.path)}
            if _state(self.path) != state:
                raise KeyFileError(f"{self.path} changes while it is read")
        except KeyFileError as error:
            return None, {}, error
        return state, found, None


def _state(path: Path) -> _State:
    """Of a file that nobody else can change."""
    found = look_at(path)
    return found.st_mtime_ns, found.st_ino, found.st_size
