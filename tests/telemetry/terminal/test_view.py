"""The full view in real terminals: what stands on the screen, and that the terminal is given back in every case."""

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.config.process import write_line
from penstock.telemetry.progress import Snapshot
from penstock.telemetry.terminal import view as view_module
from penstock.telemetry.terminal.view import TerminalView, is_wanted
from tests.telemetry.terminal.pseudo_terminal import PseudoTerminal
from tests.telemetry.views import FakeRun, group, producer, run_view

PROGRAM = [sys.executable, "-m", "tests.telemetry.terminal.view_program"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(view_module, "DRAW_EVERY_S", 0.02)
    monkeypatch.chdir(ROOT)


@pytest.fixture
def terminal() -> Iterator[PseudoTerminal]:
    with PseudoTerminal(80, 24) as made:
        yield made


def test_the_screen_shows_the_run_and_follows_it(terminal: PseudoTerminal) -> None:
    run = FakeRun()
    with TerminalView(run, terminal.stream):
        terminal.shows("step 340/900")
        terminal.shows("BALANCED")
        run.change(step=341, producers=(producer("producer-0"), producer("producer-1", "gone")))
        terminal.shows("step 341/900")
        terminal.shows("gone")
        gone = next(row for row, line in enumerate(terminal.screen.display) if "producer-1" in line)
        assert terminal.screen.buffer[gone][0].fg == "red"


def test_the_picture_lives_while_the_run_stalls(terminal: PseudoTerminal) -> None:
    """The thread that opened the view does nothing here; whoever looks sees the stall and its clock."""
    run = FakeRun(run_view(state="stalled", waiting_for="ticket 9, held by producer-1 for 1.0 s"))
    with TerminalView(run, terminal.stream):
        terminal.shows("STALLED  ticket 9, held by producer-1 for 1.0 s")
        run.change(waiting_for="ticket 9, held by producer-1 for 2.0 s", seconds=84.0)
        terminal.shows("for 2.0 s")
        terminal.shows("1:24 so far")


def test_a_window_that_changes_its_size_gets_a_picture_of_it(terminal: PseudoTerminal) -> None:
    run = FakeRun(run_view(groups=(group(7),)))
    with TerminalView(run, terminal.stream):
        terminal.shows("FLEET")
        terminal.resize(140, 44)
        terminal.shows("STAGES")
        terminal.shows("NEWEST  three lemons on a blue plate")
        terminal.resize(60, 10)  # too small for the picture: the line
        terminal.until(lambda: terminal.text.startswith("step 340/900") and "FLEET" not in terminal.text)
        assert len(terminal.text.split()) > 3
        terminal.resize(80, 24)
        terminal.shows("FLEET")
        assert all(len(line) <= 80 for line in terminal.text.splitlines())


def test_what_others_write_over_the_picture_disappears(terminal: PseudoTerminal) -> None:
    with TerminalView(FakeRun(), terminal.stream):
        terminal.shows("FLEET")
        terminal.stream.write("\x1b[5;1HNCCL WARN something\r\n")
        terminal.stream.flush()
        terminal.until(lambda: "NCCL" not in terminal.text and "FLEET" in terminal.text)


def test_output_waits_and_comes_out_in_its_order_when_the_picture_goes(
    terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with TerminalView(FakeRun()) as view:
        terminal.shows("FLEET")
        sys.stderr.write("first\n")
        sys.stdout.write("to a pipe\n")  # what is no terminal waits for nothing
        sys.stderr.write("second\n")
        view.update(_snapshot())
        assert stdout.getvalue() == "to a pipe\n"
        terminal.read()
        assert "first" not in terminal.text
    terminal.shows("loss 1.000")
    lines = terminal.text.split("\n")
    assert lines[:2] == ["first", "second"]
    assert lines[2].startswith("step 120/600")
    assert sys.stderr is terminal.stream
    assert terminal.is_given_back


def test_threads_that_write_much_lose_nothing_but_the_oldest(
    terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()

    def read() -> None:
        while not closed.is_set():
            terminal.read()

    reader = threading.Thread(target=read, daemon=True)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    with TerminalView(FakeRun()):
        terminal.shows("FLEET")
        for number in range(3000):
            sys.stderr.write(f"line {number}\n")
        reader.start()  # a terminal's buffer is small
    closed.set()
    reader.join(20)
    terminal.until(lambda: "line 2999" in terminal.text)


def test_without_colours_the_picture_has_none(terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.resize(140, 44)
    with TerminalView(FakeRun(run_view(groups=(group(7),))), terminal.stream):
        terminal.shows("was silent for")  # below all that may have colours
        cells = [cell for row in terminal.screen.buffer.values() for cell in row.values()]
        assert {(cell.fg, cell.bg) for cell in cells} == {("default", "default")}
        assert "NEWEST" not in terminal.text


def test_a_terminal_that_takes_nothing_holds_nobody_up(
    terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Ctrl-S: its buffer fills, and who draws hangs. Neither the log nor the run's end does."""
    at_exit: list[Callable[[], object]] = []
    monkeypatch.setattr(view_module.atexit, "register", lambda *call: at_exit.append(partial(*call)))
    monkeypatch.setattr(view_module, "_JOIN_S", 0.2)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    ended = threading.Event()

    def run() -> None:
        terminal.stream.write("before ")  # what has no line's end yet stays in the file
        with TerminalView(FakeRun()) as view:
            while select.select([], [terminal.stream], [], 0.3)[1]:
                time.sleep(0.01)
            for number in range(10):
                write_line(f"line {number}")
            view.update(_snapshot())
        write_line("after the run")
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(10)
    [give_back] = at_exit
    last = threading.Thread(target=give_back, daemon=True)
    last.start()
    terminal.until(lambda: not last.is_alive())
    terminal.shows("after the run")
    assert not terminal.is_second_screen
    lines = terminal.text.split("\n")
    assert lines[:10] == ["before line 0", *(f"line {number}" for number in range(1, 10))]
    assert lines[10].startswith("step 120/600")


def test_nothing_is_drawn_between_ctrl_z_and_the_stop(
    terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(pid: int, number: int) -> None:
        for _ in range(10):  # time for several pictures
            terminal.read()
        assert terminal.is_given_back

    with TerminalView(FakeRun(), terminal.stream):
        terminal.shows("FLEET")
        monkeypatch.setattr(view_module.os, "kill", stop)
        signal.raise_signal(signal.SIGTSTP)
        terminal.until(lambda: terminal.is_second_screen)


def test_ctrl_z_is_what_it_was_when_the_view_has_gone(terminal: PseudoTerminal) -> None:
    before = signal.getsignal(signal.SIGTSTP)
    with TerminalView(FakeRun(), terminal.stream):
        assert signal.getsignal(signal.SIGTSTP) != before
        terminal.shows("FLEET")
    assert signal.getsignal(signal.SIGTSTP) == before


def test_a_defect_in_the_picture_ends_the_view_and_not_the_run(
    terminal: PseudoTerminal, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeRun()
    with TerminalView(run, terminal.stream):
        terminal.shows("FLEET")
        run.change(queues=None)
        terminal.until(lambda: not terminal.is_second_screen)
        terminal.until(lambda: "the view has a defect" in caplog.text)


# --- when it is shown -------------------------------------------------------------------------------------------------


def test_a_large_terminal_gets_the_picture_and_a_small_one_the_line(terminal: PseudoTerminal) -> None:
    assert is_wanted("auto", is_shared=False, stream=terminal.stream)
    assert not is_wanted("line", is_shared=False, stream=terminal.stream)
    assert not is_wanted("auto", is_shared=True, stream=terminal.stream)  # other ranks would write over it
    assert is_wanted("full", is_shared=True, stream=terminal.stream)
    terminal.resize(71, 24)
    assert not is_wanted("auto", is_shared=False, stream=terminal.stream)
    assert is_wanted("full", is_shared=False, stream=terminal.stream)


@pytest.mark.parametrize("view", ["auto", "full", "line"])
def test_what_is_no_terminal_gets_plain_lines(view: Any, terminal: PseudoTerminal, monkeypatch: Any) -> None:
    assert not is_wanted(view, is_shared=False, stream=io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")  # as many set it for a log that is read later
    assert not is_wanted(view, is_shared=False, stream=io.StringIO())
    with open(os.devnull, "w", encoding="utf-8") as file:
        assert not is_wanted(view, is_shared=False, stream=file)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_wanted(view, is_shared=False, stream=terminal.stream)


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "ends", "status", "last"),
    [
        ("wait", lambda terminal: terminal.press("\x03"), 130, "a printed line"),  # Ctrl-C
        ("wait", lambda terminal: _kill(terminal, signal.SIGTERM), 143, "a printed line"),
        ("error", lambda terminal: None, 1, "error: the run cannot go on"),
        ("defect", lambda terminal: None, 70, "ZeroDivisionError: a defect"),
        ("end", lambda terminal: None, 0, "after the view"),
    ],
    ids=["ctrl-c", "sigterm", "error", "defect", "end"],
)
def test_the_terminal_is_given_back_however_the_run_ends(what: str, ends: Any, status: int, last: str) -> None:
    with PseudoTerminal(80, 24, [*PROGRAM, what]) as terminal:
        terminal.shows("FLEET")
        assert terminal.is_second_screen
        assert terminal.screen.cursor.hidden
        ends(terminal)
        assert terminal.ended() == status
        assert terminal.is_given_back
        lines = [line for line in terminal.text.split("\n") if line]
        assert lines[0] == "before the view"
        assert lines[1].endswith("rank 0 WARNING: a line of the log")
        assert lines[2] == "a printed line"
        assert lines[-1].removeprefix("^C") == last


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_brings_the_picture_back() -> None:
    with PseudoTerminal(80, 24, ["bash", "--norc", "-i"], PS1="shell> ") as terminal:
        terminal.shows("shell>")
        terminal.press(f"{sys.executable} -m tests.telemetry.terminal.view_program wait\n")
        terminal.shows("FLEET")
        for number in (1, 2):
            terminal.press("\x1a")
            terminal.until(lambda number=number: terminal.text.count("Stopped") == number)  # type: ignore[misc]
            assert terminal.is_given_back
            assert "a printed line" in terminal.text
            terminal.press("fg\n")
            terminal.shows("FLEET")
            assert terminal.is_second_screen
        terminal.press("\x1a")
        terminal.until(lambda: terminal.is_given_back)
        terminal.press("bg; sleep 1; echo its 'turn'\n")  # time for several pictures
        terminal.shows("its turn")
        assert terminal.is_given_back
        terminal.press("fg\n")
        terminal.shows("FLEET")
        terminal.press("\x03")
        terminal.until(lambda: not terminal.is_second_screen)


def test_a_run_in_a_shells_background_leaves_the_terminal_alone() -> None:
    with PseudoTerminal(80, 24, ["bash", "--norc", "-i"], PS1="shell> ") as terminal:
        terminal.shows("shell>")
        terminal.press(f"{sys.executable} -m tests.telemetry.terminal.view_program wait &\n")
        terminal.shows("plain lines")
        assert not terminal.is_second_screen
        terminal.press("kill %1; wait; echo its 'end'\n")  # a shell that is killed leaves it behind
        terminal.shows("its end")


def _kill(terminal: PseudoTerminal, number: signal.Signals) -> None:
    os.kill(terminal.pid, number)


def _snapshot() -> Snapshot:
    return Snapshot(
        step=120,
        max_steps=600,
        images_made=10,
        images_trained=20,
        made_per_s=1,
        trained_per_s=2,
        reuse=2,
        loss=1.0,
        knn=None,
        producers=1,
        data_wait=0.1,
    )
