"""The edge of a process: what every program of Penstock does around its `main`.

Errors meant for the user become one line and their exit status; Ctrl-C and SIGTERM end quietly, after all
`finally` blocks and context managers have run; only a defect shows a traceback.
"""

import contextlib
import logging
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from penstock.protocol.errors import PenstockError

UNTIL_STDIN_CLOSES = "PENSTOCK_UNTIL_STDIN_CLOSES"
"""Set in the environment of a process that must end when its standard input closes; what comes there until then are
lines for its log, `LEVEL TEXT`, of which its parent says what the process cannot know."""

LOG_FILE = "PENSTOCK_LOG_FILE"
"""Names, in the environment of a process whose errors go to a terminal, a file that its log is added to as well."""

_log = logging.getLogger("penstock")

_HARD_EXIT_S = 4.0
"""Longest time between the parent's end and this process's own."""

EXIT_DEFECT = 70
"""EX_SOFTWARE of sysexits.h: an error that is ours, not the user's."""
TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """SIGTERM or SIGHUP, raised in the main thread as Ctrl-C is; no `Exception`, so that nothing swallows it.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"it was told to end ({signal.Signals(self.signum).name})"


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and end the process: what it returns; 130 by Ctrl-C, 143 by SIGTERM, 70 by a defect.

    141 where standard output's reader has gone before all was written.
    """
    try:
        code = _exit_code(lambda: _obeying_signals(main))
    except Terminated as signal_:  # it came between the end of `main` and that of its guard
        code = 128 + signal_.signum
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`penstock doctor | head`); the interpreter would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def configure_logging(role: str, level: str = "INFO") -> None:
    """Send this process's log to stderr, each line marked with its role: `producer 3`, `rank 0`.

    Raises:
        ValueError: `level` is not a level of `logging`.
    """
    handlers: list[logging.Handler] = [_CurrentStderr()]
    if file := os.environ.pop(LOG_FILE, ""):  # of this process alone, not of those that it starts
        handlers.append(_KeptLog(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_Printable(f"%(asctime)s {role} %(levelname)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    # Other libraries are heard only when something is wrong.
    logging.getLogger("penstock").setLevel(level.upper())


def printable(text: str, keep: str = "") -> str:
    """`text` with every control character, but those in `keep`, as its escape: none reaches the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def shown_width(most: int) -> int:
    """Columns of a drawing on standard output: `most`, or those of the terminal where it is narrower."""
    return min(most, shutil.get_terminal_size((most, 0)).columns)


def write_line(text: str) -> None:
    """Write one line to what `sys.stderr` is now, in one piece, so that the lines of several threads stay whole."""
    print(f"{text}\n", end="", file=sys.stderr, flush=True)


def end_with_stdin() -> None:
    """From now on end this process when its standard input closes: its parent has gone, however it went."""
    threading.Thread(target=_watch_stdin, name="penstock-parent", daemon=True).start()


@contextmanager
def ending_gently(
    begin: Callable[[], bool], number: signal.Signals = signal.SIGTERM, echo_s: float = 0.0
) -> Iterator[Callable[[], bool]]:
    """Within, the first SIGTERM calls `begin`, which starts an orderly end; a later one raises Terminated as ever.

    Where `begin` returns False, or the parent has gone, so that nobody waits for an orderly end, the first one raises
    too. Yields a function that says whether an orderly end was begun. For the main thread.

    Args:
        begin: starts the orderly end; called in a signal handler.
        number: the signal, SIGTERM or SIGINT.
        echo_s: a second signal within so many seconds of the first is the first one's echo and means nothing: some
            schedulers signal every process of a job, and a parent passes its own signal on.
    """
    begun_at: float | None = None

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal begun_at
        if begun_at is not None and not _orphaned.is_set() and time.monotonic() - begun_at < echo_s:
            return
        if begun_at is not None or _orphaned.is_set() or not begin():
            _raise_terminated(signum, frame)
        begun_at = time.monotonic()

    before = signal.signal(number, handle)
    try:
        yield lambda: begun_at is not None
    finally:
        if signal.getsignal(number) is handle:  # else Terminated is on its way: it must not be interrupted
            signal.signal(number, before)


_orphaned = threading.Event()
"""Set when standard input has closed: the parent has gone."""


def _watch_stdin() -> None:
    # Not through `sys.stdin`, whose lock would be held at the interpreter's end.
    rest = b""
    while read := os.read(0, 4096):
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            level, _, text = line.decode(errors="replace").partition(" ")
            _log.log(logging.getLevelNamesMapping().get(level, logging.INFO), "%s", text)
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_HARD_EXIT_S)
    os._exit(128 + signal.SIGTERM)


def _obeying_signals(main: Callable[[], int | None]) -> int | None:
    """Run `main`; SIGTERM, SIGHUP and, where asked for, the end of standard input raise Terminated in it."""
    obeyed = [number for number in TERMINATING if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    told_of_lost, sys.unraisablehook = sys.unraisablehook, _raise_again
    try:
        for number in obeyed:
            signal.signal(number, _raise_terminated)
        if os.environ.pop(UNTIL_STDIN_CLOSES, ""):
            end_with_stdin()
        return main()
    finally:
        sys.unraisablehook = told_of_lost
        for number in obeyed:  # what is left takes no time, and must not be torn
            signal.signal(number, signal.SIG_IGN)


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more (`penstock ledger RUN --json | head`)."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # what went wrong is told unasked
    return bool(output.poll(0))


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except PenstockError as error:
        _say_last(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Terminated as error:
        return 128 + error.signum
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return 128 + signal.SIGPIPE
        _say_last(traceback.format_exc().rstrip())
        return EXIT_DEFECT


def _say_last(text: str) -> None:
    """A process's last words: on standard error, and in its log where that is kept."""
    print(text, file=sys.stderr)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _KeptLog):
            handler.add(text)


def _raise_terminated(signum: int, frame: FrameType | None) -> NoReturn:
    for number in (*TERMINATING, signum):  # the first one is being obeyed: let the clean-up finish
        signal.signal(number, signal.SIG_IGN)
    raise Terminated(signum)


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """A signal that came while a finaliser ran, where Python lets no exception out, comes again a moment later."""
    if isinstance(lost.exc_value, Terminated):
        number = lost.exc_value.signum
        signal.signal(number, _raise_terminated)
    elif issubclass(lost.exc_type, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        sys.__unraisablehook__(lost)
        return
    while True:
        try:
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
        except (KeyboardInterrupt, Terminated):  # on a busy machine it came while the timer was being started
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _raise_terminated)
        else:
            return


class _Printable(logging.Formatter):
    """What a peer sent is shown as text: no control character reaches the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        # Only a traceback has lines of its own; a line break in a peer's words would forge a record.
        return printable(super().format(record), "\n" if record.exc_info else "")


class _CurrentStderr(logging.Handler):
    """Writes to what `sys.stderr` is now, so that a live progress line can lift log lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            write_line(self.format(record))
        except (OSError, TypeError, ValueError):  # a full disk or a line with a mistake must not end who logs
            self.handleError(record)


class _KeptLog(logging.FileHandler):
    """Adds to a file what goes to the terminal, where nobody finds it afterwards."""

    def add(self, text: str) -> None:
        """A text that is no record."""
        with contextlib.suppress(OSError), open(self.baseFilename, "a", encoding=self.encoding) as file:
            file.write(f"{text}\n")
