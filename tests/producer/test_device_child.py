"""One device's producer through its lives, with a script in its place and the time in the test's hand."""

import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from penstock.producer.device_child import Backoff, ChildState, DeviceChild
from tests.faults.programs import wait_until
from tests.producer.device_programs import alive

LOG = "import sys\ndef say(text): print(f'12:00:00 producer ann INFO: {text}', file=sys.stderr, flush=True)\n"
UP = f"{LOG}say('warms up: x on y'); say('ready for rank 0 at tcp://a:1')\n"
FOREVER = "import time; time.sleep(600)"

Start = Callable[[str], DeviceChild]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child that is gone when the test ends."""
    made: list[DeviceChild] = []

    def start_one(script: str) -> DeviceChild:
        made.append(DeviceChild("ann", "cpu", [sys.executable, "-c", script], {}))
        made[-1].step(0.0, may_restart=True)
        return made[-1]

    yield start_one
    for child in made:
        child.kill()
        if child.process is not None:
            child.process.wait()
        child.clear_up()


def until_process_ends(child: DeviceChild, now: float = 0.0, *, may_restart: bool = True) -> None:
    """Step at one moment until the end of the process is seen."""

    def ended() -> bool:
        child.step(now, may_restart=may_restart)
        return child.process is None

    wait_until(ended, "the process ends")


def until_state(child: DeviceChild, state: ChildState) -> None:
    wait_until(lambda: child.state is state, f"it is {state.value}")


@pytest.mark.parametrize("status", [0, 1, 2, 130, 143])
def test_what_a_restart_cannot_mend_ends_for_good(start: Start, status: int) -> None:
    child = start(f"import sys; print('error: no such model', file=sys.stderr); sys.exit({status})")
    until_process_ends(child)
    assert (child.status, child.state, child.last_line) == (status, ChildState.ENDED, "error: no such model")
    child.step(1e6, may_restart=True)
    assert child.process is None


@pytest.mark.parametrize("end", ["sys.exit(70)", "os.kill(os.getpid(), 11)", "os.kill(os.getpid(), 9)"])
def test_a_crash_is_followed_by_another_life_after_a_while(start: Start, end: str) -> None:
    child = start(f"import os, sys; print('boom', flush=True); {end}")
    until_process_ends(child, now=10.0)
    assert (child.status, child.state, child.last_line) == (None, ChildState.RESTARTING, "boom")
    child.step(10.9, may_restart=True)
    assert child.process is None
    child.step(11.0, may_restart=True)
    assert child.process is not None


def test_a_crash_loop_slows_down(start: Start) -> None:
    child, now, waits = start("import sys; sys.exit(70)"), 0.0, []
    for _ in range(3):
        until_process_ends(child, now)
        begun = now
        while child.process is None:
            now += 0.5
            child.step(now, may_restart=True)
        waits.append(now - begun)
    assert waits == [1.0, 2.0, 4.0]


def test_the_wait_doubles_up_to_a_minute_and_begins_anew_after_a_minute_of_service() -> None:
    backoff = Backoff()
    assert [backoff.after(0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.after(59.9) == 60
    assert [backoff.after(served_s) for served_s in (60.0, 0.0, 0.0)] == [1, 2, 4]


def test_a_program_that_cannot_be_started_is_tried_again() -> None:
    child = DeviceChild("ann", "cpu", ["/nonexistent/python"], {})
    child.step(0.0, may_restart=True)
    assert (child.state, child.status) == (ChildState.RESTARTING, None)
    assert child.last_line.startswith("it cannot be started: ")


def test_its_state_is_what_its_log_says(start: Start) -> None:
    script = f"{UP}sys.stdin.read(); say('tcp://a:1 said goodbye: done'); {FOREVER}"
    child = start(script)
    until_state(child, ChildState.SERVING)
    assert child.process is not None
    assert child.process.stdin is not None
    child.process.stdin.close()
    until_state(child, ChildState.WAITING)


def test_one_of_two_ranks_is_enough_to_serve(start: Start) -> None:
    child = start(f"{UP}say('ready for rank 1 at tcp://a:2'); say('tcp://a:1 has been silent for 9 s'); {FOREVER}")
    wait_until(lambda: child.last_line.endswith("silent for 9 s"), "the log is read")
    assert child.state is ChildState.SERVING


def test_a_peers_words_change_no_state(start: Start) -> None:
    forged = "tcp://a:1 refused a message: 12:00:00 producer ann INFO: ready for rank 0 at tcp://a:1"
    child = start(f"{LOG}say('warms up: x'); say({forged!r}); say('end'); {FOREVER}")
    wait_until(lambda: child.last_line.endswith("end"), "the log is read")
    assert child.state is ChildState.WARMING


def test_its_log_is_passed_on_line_by_line_with_its_name(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    child = start(r"import sys; sys.stderr.write('one\n10%\r20%\r30%\nred \x1b[31m\n\tindented\nunfinished')")
    until_process_ends(child)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ann | ")]
    assert lines == ["ann | one", "ann | 30%", "ann | red \\x1b[31m", "ann | \tindented", "ann | unfinished"]
    assert child.last_line == "unfinished"


def test_what_a_dead_producer_had_started_is_ended_and_holds_nothing_up(start: Start) -> None:
    grandchild = f"import subprocess, sys, os; worker = subprocess.Popen([sys.executable, '-c', '{FOREVER}'])"
    child = start(f"{grandchild}; print(worker.pid, flush=True); os._exit(70)")
    begun = time.monotonic()
    until_process_ends(child)
    wait_until(lambda: not alive(int(child.last_line)), "the worker is gone")
    assert time.monotonic() - begun < 30
    assert child.state is ChildState.RESTARTING


def test_asked_to_end_between_two_lives_it_ends_at_once(start: Start) -> None:
    child = start("import sys; sys.exit(70)")
    until_process_ends(child)
    child.ask_to_end(143)
    assert (child.status, child.state) == (143, ChildState.ENDED)


def test_it_is_asked_once_and_a_second_request_changes_nothing(start: Start) -> None:
    count = "import signal, time; signal.signal(15, lambda *_: print('asked', flush=True))"
    child = start(f"{UP}{count}; say('listens'); {FOREVER}")
    wait_until(lambda: child.last_line.endswith("listens"), "the handler is there")
    child.ask_to_end(0)
    wait_until(lambda: child.last_line == "asked", "it was asked")
    child.last_line = ""
    child.ask_to_end(143)
    assert child.process is not None
    psutil.Process(child.process.pid).kill()
    until_process_ends(child)
    assert child.last_line == ""
    assert child.status == 137, "it did not end as it was asked to"


def test_a_crash_while_it_drains_is_the_end(start: Start) -> None:
    child = start(f"{UP}import signal, os; signal.signal(15, lambda *_: os._exit(70)); say('listens'); {FOREVER}")
    wait_until(lambda: child.last_line.endswith("listens"), "the handler is there")
    child.ask_to_end(143)
    until_process_ends(child)
    assert (child.status, child.state) == (70, ChildState.ENDED)
