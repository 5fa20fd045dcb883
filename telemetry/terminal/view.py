"""The full view of a run in a terminal: a picture that a thread of its own draws anew some times a second.

It takes the terminal's second screen and gives the first one back as it was, however the run ends. What is written to
standard output and error meanwhile, the log above all, waits and comes out then; the picture shows the log's last
lines. The training thread draws nothing and waits for nothing here, so the picture lives while the run stalls, and a
terminal that does not take what is written to it (Ctrl-S) stops nothing but the picture: at the run's end it is given
back when all else is done, for then there is nothing left to hold up.
"""

import atexit
import contextlib
import io
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Literal, Self, TextIO

from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from penstock.telemetry.progress import Snapshot, render
from penstock.telemetry.run_view import GroupView, RunView
from penstock.telemetry.terminal.cells import Block, fit
from penstock.telemetry.terminal.picture import MIN_HEIGHT, MIN_WIDTH, has_room_for_sheet, picture, sheet_size
from penstock.telemetry.terminal.sheet import sheet
from penstock.telemetry.terminal.waiting_output import WaitingOutput

_log = logging.getLogger(__name__)

DRAW_EVERY_S = 0.25
_PAUSE_PER_DRAWING = 30
"""A picture that took a millisecond of a core is followed by a pause of so many, at least."""
_SHEET_S = 2.0
"""How long a group of images is shown: long enough to read its prompt."""
_JOIN_S = 1.0
# The second screen; no cursor; no line goes on in the next one, however wide the terminal takes its characters.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
# Terminals that know this show a picture when it is whole; others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_COLOURS = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}


def is_wanted(view: Literal["auto", "full", "line"], *, is_shared: bool, stream: TextIO | None = None) -> bool:
    """Whether `stream`, stderr by default, gets the full view.

    Args:
        view: what the user asked for; `auto` takes a terminal that is large enough, ours alone, and in front.
        is_shared: whether other processes of the run write to the same terminal.
        stream: where the view would be drawn.
    """
    stream = stream or sys.stderr
    console = Console(file=stream)
    knows_characters = (stream.encoding or "").lower().replace("-", "") == "utf8"
    # FORCE_COLOR lets rich take a file for a terminal, which it fills with pictures.
    is_terminal = stream.isatty() and console.is_terminal and not console.is_dumb_terminal
    if view == "line" or not is_terminal or not knows_characters:
        return False
    width, height = _size(stream)
    return view == "full" or (not is_shared and width >= MIN_WIDTH and height >= MIN_HEIGHT and _is_in_front(stream))


class TerminalView:
    """Draws a run. A context manager; `close` may be called twice. Enter and close it in the same thread.

    Args:
        look: the run as it was seen last; from any thread, at no cost.
        stream: a terminal; stderr by default.
    """

    def __init__(self, look: Callable[[], RunView], stream: TextIO | None = None) -> None:
        self._look = look
        self._file = stream or sys.stderr
        self._console = Console(file=self._file, highlight=False, legacy_windows=False)
        self._output = WaitingOutput(self._file)
        self._last: Snapshot | None = None
        self._group: tuple[GroupView, float] | None = None
        """The group that is shown, and since when."""
        self._sheet: tuple[GroupView, tuple[int, int], Block] | None = None
        """What was drawn of which group last, and how large."""
        self._size = (0, 0)
        self._drawing = threading.Lock()
        """Guards whether the picture is on the screen, and what is written there."""
        self._is_shown = False
        self._is_stopping = False
        """Whether Ctrl-Z has been pressed and this process has not stopped yet."""
        self._closed = threading.Event()
        self._earlier_tstp: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None
        self._thread = threading.Thread(target=self._draw_on, name="penstock-view", daemon=True)

    def update(self, snapshot: Snapshot) -> None:
        """Keep the figures for the line that stays when the picture goes."""
        self._last = snapshot

    def close(self) -> None:
        """Give the terminal back, with what was written meanwhile and the last line. Does nothing the second time.

        One that takes nothing is given back at the process's end; until then all that is written waits.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        is_back = False
        try:
            self._thread.join(timeout=_JOIN_S)
            is_back = self._hide(_JOIN_S)
        finally:  # also when Ctrl-C comes again
            if is_back:
                self._output.uninstall()
            else:
                atexit.register(self._hide, None)
            if threading.current_thread() is threading.main_thread() and self._earlier_tstp is not None:
                signal.signal(signal.SIGTSTP, self._earlier_tstp)
            if self._last:
                with contextlib.suppress(OSError):  # the terminal has gone
                    self._output.write(self._file, render(self._last, _size(self._file)[0] - 1) + "\n")
                    self._output.flush(self._file)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _draw_on(self) -> None:
        pause_s = 0.0
        while not self._closed.wait(pause_s):
            began = time.thread_time()
            try:
                self._draw()
            except OSError:  # the terminal has gone
                return
            except Exception:  # noqa: BLE001 - a thread's edge: who only draws must not end a run
                self._hide(None)
                _log.exception("the view has a defect, and has ended; the run goes on")
                return
            pause_s = max(DRAW_EVERY_S, _PAUSE_PER_DRAWING * (time.thread_time() - began))

    def _draw(self) -> None:
        if not _is_in_front(self._file):  # `bg`: the terminal is somebody else's
            return
        size = _size(self._file)
        frame = self._frame(self._look(), *size)
        with self._drawing:
            if self._closed.is_set() or self._is_stopping:
                return
            if not self._is_shown:
                self._output.hold()
                self._is_shown, frame = True, _ENTER + frame
            elif size != self._size:
                frame = "\x1b[2J" + frame
            self._size = size
            self._write(_BEGIN + frame + _END)

    def _frame(self, view: RunView, width: int, height: int) -> str:
        """A picture as a terminal reads it; every cell is written, so that what else got there disappears."""
        if width < MIN_WIDTH or height < MIN_HEIGHT:
            lines: Block = [Text(render(snapshot_of(view), width))]
        else:
            lines = picture(view, width, height, self._sheet_of(view, width, height))
        lines = [*lines, *[Text()] * height][:height]
        return "".join(f"\x1b[{row};1H{self._ansi(fit(line, width))}" for row, line in enumerate(lines, start=1))

    def _ansi(self, line: Text) -> str:
        segments = line.render(self._console)
        if self._console.no_color:
            segments = Segment.remove_color(segments)
        colours = _COLOURS.get(self._console.color_system or "")
        return "".join(style.render(text, color_system=colours) if style else text for text, style, _ in segments)

    def _sheet_of(self, view: RunView, width: int, height: int) -> Block:
        """The group of images that is shown, drawn; nothing where there is none, or neither room nor colours for it."""
        has_colours = self._console.color_system in ("256", "truecolor") and not self._console.no_color
        if not view.groups or not has_colours or not has_room_for_sheet(width, height):
            return []
        now = time.monotonic()
        if self._group is None or now - self._group[1] >= _SHEET_S:
            self._group = view.groups[0], now
        group, size = self._group[0], sheet_size(width)
        if self._sheet is None or self._sheet[0] is not group or self._sheet[1] != size:
            self._sheet = group, size, sheet(group, *size)
        return self._sheet[2]

    # --- the terminal -------------------------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        """Write past the file and its lock, which another thread that writes would wait for."""
        left = memoryview(text.encode("utf-8", "replace"))
        while left:
            self._takes(None)  # somebody may have made the terminal one that does not block
            left = left[os.write(self._file.fileno(), left) :]

    def _takes(self, within_s: float | None) -> bool:
        """Wait until the terminal takes something: not while it is stopped, or nobody reads what it has got."""
        return bool(select.select([], [self._file], [], within_s)[1])

    def _hide(self, within_s: float | None) -> bool:
        """Give the terminal's first screen back, and let out what was written meanwhile.

        False where the terminal takes nothing `within_s`, twice at most; None waits on.
        """
        if not self._drawing.acquire(timeout=-1 if within_s is None else within_s):
            return False  # a thread hangs in its picture
        try:
            with contextlib.suppress(OSError):  # the terminal has gone
                if self._is_shown:
                    if not self._takes(within_s):
                        return False
                    self._write(_LEAVE)
                    self._is_shown = False
                self._output.release()
        finally:
            self._drawing.release()
        return True

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        """Ctrl-Z: leave the terminal to the shell before this process stops; in front again, the picture returns."""
        self._is_stopping = True
        self._hide(_JOIN_S)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stop)
        self._is_stopping = False

    def __enter__(self) -> Self:
        self._output.install()
        if threading.current_thread() is threading.main_thread():
            self._earlier_tstp = signal.signal(signal.SIGTSTP, self._stop)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def snapshot_of(view: RunView) -> Snapshot:
    """The figures of the progress line."""
    return Snapshot(
        step=view.step,
        max_steps=view.max_steps,
        images_made=view.images_made,
        images_trained=view.images_trained,
        made_per_s=view.made_per_s,
        trained_per_s=view.trained_per_s,
        reuse=view.reuse,
        loss=view.loss[-1][1] if view.loss else None,
        knn=view.knn[-1][1] if view.knn else None,
        producers=sum(producer.state != "gone" for producer in view.producers),
        data_wait=view.data_wait,
        rejected=view.filtered,
    )


def _size(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of a terminal; asked for anew each time, since a window's size changes."""
    try:
        width, height = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, io.UnsupportedOperation):
        width = height = 0
    return (width, height) if width and height else (80, 24)


def _is_in_front(stream: TextIO) -> bool:
    """Whether this process may write all over a terminal: not in a shell's background."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError, io.UnsupportedOperation):  # it is no terminal of this session: there are no jobs
        return True
