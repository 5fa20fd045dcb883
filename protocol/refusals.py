"""Connections that were refused, for the log and for whoever counts: a line a minute for each reason and address."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

_SILENT_S: Final = 60.0
_MAX_TOLD: Final = 1024
"""Pairs of reason and address that are told apart within a minute."""
_MAX_WAITING: Final = 4096
"""Refusals that wait for whoever counts; of more the oldest are lost."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connection that was refused."""

    word: str
    """What refusals are counted by; empty for a warning that is none."""
    who: str
    """The address that it came from."""
    line: str
    """For the log; empty where the same was said less than a minute ago."""


class Refusals:
    """Keeps what was refused until it is taken. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Refusal] = deque(maxlen=_MAX_WAITING)
        self._told: dict[tuple[str, str], list[float]] = {}
        """For each pair, when it was said last, and how often it was not said since."""

    def add(self, word: str, who: str, why: str, now: float) -> None:
        """One more.

        Args:
            word: what refusals are counted by.
            who: the address that it came from.
            why: the end of a sentence that begins with the address.
            now: the time, in seconds on a monotonic clock.
        """
        with self._lock:
            line = self._line(word, who, f"refused {who}: {why}", now)
            self._waiting.append(Refusal(word, who, line))

    def warn(self, what: str, line: str, now: float) -> None:
        """Something that an operator should know of `what`, and that is no refusal."""
        with self._lock:
            self._waiting.append(Refusal("", what, self._line("", what, line, now)))

    def _line(self, word: str, who: str, text: str, now: float) -> str:
        if len(self._told) >= _MAX_TOLD:
            self._told = {pair: told for pair, told in self._told.items() if now - told[0] < _SILENT_S}
        if (word, who) not in self._told and len(self._told) >= _MAX_TOLD:
            who, text = "others", f"{text}; and so many other addresses that they are not told apart"
        told = self._told.get((word, who))
        if told is not None and now - told[0] < _SILENT_S:
            told[1] += 1
            return ""
        self._told[word, who] = [now, 0]
        return f"{text} ({told[1]:.0f} times more since the last line like this)" if told and told[1] else text

    def take(self) -> list[Refusal]:
        """What has been refused since the last call."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting
