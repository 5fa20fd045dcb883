"""The logs of `penstock up`: a file for each process, and one view of all of them or rank 0's own.

Where rank 0 has the terminal it may have filled it with its picture, and nobody else may write there. What `up` itself
has to say then goes to rank 0 by its standard input, and comes out in its log and in its picture.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self, TextIO

from penstock.config.process import write_line
from penstock.consumer.run_folder import LOGS
from penstock.protocol.errors import RunError


class Logs:
    """Files in `RUN/logs`. A context manager, which also keeps this process's own log.

    Args:
        run_dir: of the run.
        width: of the longest process's name.
        keeps: what earlier lives of the run have written, rather than deleting it.
        shows: whether the processes' lines also come out on standard error.

    Raises:
        RunError: another `penstock up` runs there.
    """

    def __init__(self, run_dir: Path, width: int, *, keeps: bool, shows: bool) -> None:
        self.folder = run_dir / LOGS
        self._width = width
        self._shows = shows
        self._files: list[TextIO] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = self._take_folder()
        self._own = logging.FileHandler(self.path("up"), encoding="utf-8")
        for old in () if keeps else self.folder.glob("*.log"):
            if old == self.path("up"):
                os.truncate(old, 0)  # it is held
            else:
                old.unlink()
        self._own.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S"))
        self._relay: _Relay | None = None
        self._quiet: list[logging.Handler] = []
        """What writes to standard error, while it must not."""

    def _take_folder(self) -> TextIO:
        """What holds it while it is open. Raises RunError where another process does: its ranks may yet begin."""
        held = self.path("up").open("a", encoding="utf-8")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.close()
            raise RunError(
                f"another penstock up has its logs in {self.folder}; end it, or choose another --run-dir"
            ) from error
        return held

    def path(self, name: str) -> Path:
        """Of a process's log."""
        return self.folder / f"{name}.log"

    def of(self, name: str) -> Callable[[str], None]:
        """What takes the lines of a process."""
        file = self.path(name).open("a", encoding="utf-8", buffering=1)
        self._files.append(file)

        def take(line: str) -> None:
            with contextlib.suppress(OSError, ValueError):  # a full disk; a last word after the end
                file.write(f"{line}\n")
            if self._shows:
                write_line(f"{name:{self._width}} | {line}")

        return take

    def tell_through(self, pipe: int) -> None:
        """From now on say what this process has to say through another one, by a pipe to its standard input."""
        self._relay = _Relay(pipe)
        root = logging.getLogger()
        self._quiet = [handler for handler in root.handlers if handler is not self._own]
        for handler in self._quiet:
            root.removeHandler(handler)
        root.addHandler(self._relay)

    def tell_here(self) -> None:
        """Say it here again: the other process has ended. Does nothing the second time."""
        root = logging.getLogger()
        if self._relay is not None:
            root.removeHandler(self._relay)
        for handler in self._quiet:
            root.addHandler(handler)
        self._relay, self._quiet = None, []

    def last_lines(self, name: str, most: int) -> list[str]:
        """Of a process's log, those that are not empty."""
        try:
            lines = self.path(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-most:]

    def __enter__(self) -> Self:
        """Keep the log of this process."""
        logging.getLogger().addHandler(self._own)
        return self

    def __exit__(self, *exc: object) -> None:
        self.tell_here()
        logging.getLogger().removeHandler(self._own)
        self._own.close()
        for file in (*self._files, self._held):
            with contextlib.suppress(OSError):
                file.close()


class _Relay(logging.Handler):
    """Writes records to a pipe as `LEVEL TEXT`; those that it does not take are in the file all the same."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        os.set_blocking(pipe, False)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, without waiting."""
        text = record.getMessage().replace("\n", " ")
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{record.levelname} {text}\n".encode())
