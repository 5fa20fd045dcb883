"""A terminal that a test reads: what stands on its screen, and what somebody would see who sits before it."""

import copy
import fcntl
import io
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

WAIT_S = 20.0
_SECOND_SCREEN = 1049


class TwoScreens(pyte.Screen):
    """A screen with a second one, as every terminal has it; pyte has not."""

    saved: Any = None

    def set_mode(self, *modes: int, **options: bool) -> None:
        """Go to the second screen where that is asked for; else as ever."""
        if options.get("private") and _SECOND_SCREEN in modes and self.saved is None:
            self.saved = copy.deepcopy(self.buffer), copy.copy(self.cursor)
            self.erase_in_display(2)
        super().set_mode(*modes, **options)

    def reset_mode(self, *modes: int, **options: bool) -> None:
        """Come back to the first screen where that is asked for; else as ever."""
        if options.get("private") and _SECOND_SCREEN in modes and self.saved is not None:
            is_hidden = self.cursor.hidden
            self.buffer, self.cursor = self.saved
            self.cursor.hidden = is_hidden  # both screens have the one cursor
            self.saved = None
        super().reset_mode(*modes, **options)


class PseudoTerminal:
    """A pseudo-terminal of some size. A context manager.

    With a `command` that runs in it, as the leader of its session, the way a terminal's window starts a shell; without
    one, `stream` writes to it.
    """

    def __init__(
        self, width: int, height: int, command: Sequence[str] = (), *, wait_s: float = WAIT_S, **env: str
    ) -> None:
        self._wait_s = wait_s
        self.screen = TwoScreens(width, height)
        self.screen.set_mode(pyte.modes.LNM)
        self._bytes = pyte.ByteStream(self.screen)
        self.pid = 0
        self.status: int | None = None
        """How the command has ended; None while it runs."""
        if command:
            self.pid, self._master = pty.fork()
            if self.pid == 0:
                os.execvpe(command[0], list(command), os.environ | {"TERM": "xterm-256color", "COLUMNS": ""} | env)
        else:
            self._master, slave = pty.openpty()
            self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """The window's size changes."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def press(self, keys: str) -> None:
        """Somebody presses keys: `\\x03` is Ctrl-C."""
        os.write(self._master, keys.encode())

    def read(self, timeout_s: float = 0.05) -> bool:
        """Read what was written; whether there was anything."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # nobody holds the other end any more
            return False
        self._bytes.feed(data)
        return bool(data)

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    @property
    def is_second_screen(self) -> bool:
        """Whether a program has the second screen."""
        return self.screen.saved is not None

    @property
    def is_given_back(self) -> bool:
        """Whether it is as a shell wants it: the first screen, a cursor, and lines that go on in the next one."""
        screen = self.screen
        return not self.is_second_screen and not screen.cursor.hidden and pyte.modes.DECAWM in screen.mode

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until the condition holds."""
        deadline = time.monotonic() + self._wait_s
        while not condition():
            self.read()
            assert time.monotonic() < deadline, self.text

    def shows(self, wanted: str) -> None:
        """Read until this stands on the screen."""
        self.until(lambda: wanted in self.text)

    def ended(self) -> int:
        """Read until the command has ended; its exit status, as a shell shows it."""

        def has_ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            return bool(pid)

        self.until(has_ended)
        while self.read():
            pass
        assert self.status is not None
        return self.status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid and self.status is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        if not self.pid:
            self.stream.close()
        os.close(self._master)


def save_svg(terminal: PseudoTerminal, path: Path, title: str) -> None:
    """Write what stands on the screen as a picture that loads nothing from elsewhere."""
    screen = terminal.screen
    console = Console(
        width=screen.columns, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for row in range(screen.lines):
        text = Text(no_wrap=True)
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            text.append(cell.data or " ", Style(color=_colour(cell.fg), bgcolor=_colour(cell.bg), bold=cell.bold))
        console.print(text)
    svg = console.export_svg(title=title)
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def _colour(name: str) -> str | None:
    """rich's name of a colour of pyte."""
    if name == "default":
        return None
    return f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else {"brown": "yellow"}.get(name, name)
