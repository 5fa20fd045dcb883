"""What is written to standard output and error while a picture has the terminal: it waits, then comes out in order."""

import sys
import threading
from collections import deque
from typing import TextIO

_KEPT = 2000
"""Pieces of text that wait at most; of a longer time the newest do."""


class WaitingOutput:
    """Stands in for those of `sys.stdout` and `sys.stderr` that are terminals, between `install` and `uninstall`.

    Between `hold` and `release` what is written waits; before and after that it passes. For any thread.

    Args:
        screen: the terminal of the picture; whatever of the two is this file is replaced too.
    """

    def __init__(self, screen: TextIO) -> None:
        self._screen = screen
        self._waiting: deque[tuple[TextIO, str]] = deque(maxlen=_KEPT)
        self._num_lost = 0
        # A signal's handler may release while its own thread is writing.
        self._lock = threading.RLock()
        self._holds = False
        self._earlier: dict[str, TextIO] = {}

    def install(self) -> None:
        """Stand in from now on."""
        for name in ("stdout", "stderr"):
            file: TextIO = getattr(sys, name)
            if file is self._screen or file.isatty():
                self._earlier[name] = file
                setattr(sys, name, _StandIn(self, file))

    def uninstall(self) -> None:
        """Stand in no more."""
        for name, file in self._earlier.items():
            setattr(sys, name, file)
        self._earlier = {}

    def hold(self) -> None:
        """Let what is written wait."""
        with self._lock:
            self._holds = True

    def release(self) -> None:
        """Let it out, and pass on what comes. Raises OSError where the terminal has gone."""
        with self._lock:
            self._holds = False
            if self._num_lost:
                self._screen.write(f"... {self._num_lost} earlier pieces of output are lost\n")
            waiting, self._num_lost = list(self._waiting), 0
            self._waiting.clear()
            for file, text in waiting:
                file.write(text)
                file.flush()

    def write(self, file: TextIO, text: str) -> int:
        """What a stand-in does."""
        with self._lock:
            if not self._holds:
                return file.write(text)
            self._num_lost += len(self._waiting) == _KEPT
            self._waiting.append((file, text))
            return len(text)

    def flush(self, file: TextIO) -> None:
        """What a stand-in does. Nothing while it holds: nothing is in the file, and a stopped terminal takes none."""
        with self._lock:
            if not self._holds:
                file.flush()


class _StandIn:
    """A file whose writes take another way; all else is the file's own."""

    def __init__(self, output: WaitingOutput, file: TextIO) -> None:
        self._output = output
        self._file = file

    def write(self, text: str) -> int:
        return self._output.write(self._file, text)

    def writelines(self, lines: list[str]) -> None:
        for text in lines:
            self.write(text)

    def flush(self) -> None:
        self._output.flush(self._file)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)
