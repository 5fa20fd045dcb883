"""A child whose every line of output is passed on, by a thread of its own, and whose last one is kept."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from penstock.config import children
from penstock.config.process import printable, write_line

_LAST_WORDS_S = 1.0
"""How long the output of a process that has ended may take to be read."""
_LINE_BYTES = 1 << 16


class LoggedChild:
    """One process at a time. For one thread; another, of its own, reads what it writes.

    Args:
        name: marks its lines.
        command: what starts it.
        env: what its environment has beside this process's.
        pass_on: gets every line; by default it comes out on standard error as `NAME | LINE`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        pass_on: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.last_line = "(it wrote nothing)"
        self.process: subprocess.Popen[bytes] | None = None
        """None before a start, and from the end of one process to the start of the next."""
        self._command = command
        self._env = env
        self._pass_on = pass_on or (lambda line: write_line(f"{name} | {line}"))
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the process. Raises OSError."""
        self.process = children.start(self._command, output=subprocess.PIPE, env=self._env)
        self._reader = threading.Thread(target=self._read, args=[self.process], name=f"{self.name}-log", daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """The exit status of the process, as a shell shows it; None while it runs, and where there is none."""
        returncode = None if self.process is None else self.process.poll()
        return None if returncode is None else children.exit_status(returncode)

    def kill(self) -> None:
        """End it and all that it has started, at once."""
        if self.process is not None:
            children.kill_group(self.process)

    def clear_up(self) -> None:
        """After the end of a process: end what it has left running, and wait for its last words."""
        if self.process is None:
            return
        children.kill_group(self.process)
        if self._reader is not None:
            self._reader.join(_LAST_WORDS_S)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = self._reader = None

    def hear(self, line: str) -> None:
        """Take note of a line that is not empty; for the thread that reads."""

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        log: IO[bytes] | None = process.stdout
        if log is None:
            return
        with log:
            for line in iter(lambda: log.readline(_LINE_BYTES), b""):
                # A progress bar overwrites itself: its last state is the line.
                text = printable(line.decode(errors="replace").rstrip().rpartition("\r")[2], keep="\t")
                with contextlib.suppress(OSError):  # a closed pipe or a full disk must not stop the child
                    self._pass_on(text)
                if text and process is self.process:
                    self.last_line = text
                    self.hear(text)
