"""Programs that another one starts: none outlives it. Real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from penstock.config import children

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
GOOD = "import sys; print('up', flush=True); sys.stdin.read()"
PARENT = """
import subprocess, sys, time
from penstock.config import children
wait = "(print('up', flush=True), time.sleep(600))"
body = f"import time; from penstock.config import process; process.run(lambda: {wait})"
child = children.start([sys.executable, "-c", body], output=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are gone when the test ends."""
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def until_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"


def test_children_that_listen_end_by_themselves_and_the_others_are_killed(
    started: list[subprocess.Popen[bytes]],
) -> None:
    started += [children.start([sys.executable, "-c", body], output=subprocess.PIPE) for body in (GOOD, STUBBORN)]
    for process in started:
        until_up(process)
    begun = time.monotonic()
    children.end(started, within_s=1.0)
    assert [process.returncode for process in started] == [0, -9]
    assert time.monotonic() - begun < 20
    children.end(started, within_s=1.0)  # once more is no error


def test_a_child_has_a_session_and_an_environment_of_its_own(started: list[subprocess.Popen[bytes]]) -> None:
    body = "import os; print(os.getsid(0) == os.getpid(), os.environ['COLOUR'], 'PATH' in os.environ)"
    started.append(children.start([sys.executable, "-c", body], output=subprocess.PIPE, env={"COLOUR": "red"}))
    assert started[0].stdout is not None
    assert started[0].stdout.read() == b"True red True\n"
    assert "COLOUR" not in os.environ


def test_what_a_child_has_started_is_killed_with_it(started: list[subprocess.Popen[bytes]]) -> None:
    body = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {GOOD!r}]).pid, flush=True)"
    started.append(children.start([sys.executable, "-c", body], output=subprocess.PIPE))
    assert started[0].stdout is not None
    grandchild = psutil.Process(int(started[0].stdout.readline()))
    started[0].wait()
    children.kill_group(started[0])
    assert psutil.wait_procs([grandchild], timeout=20)[1] == []
    children.kill_group(started[0])  # an empty group is no error


def test_a_child_ends_with_a_parent_that_is_killed(started: list[subprocess.Popen[bytes]]) -> None:
    started.append(subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE))
    assert started[0].stdout is not None
    child = psutil.Process(int(started[0].stdout.readline()))
    started[0].kill()
    assert psutil.wait_procs([child], timeout=20)[1] == []


@pytest.mark.parametrize(("returncode", "status"), [(0, 0), (2, 2), (-9, 137), (-15, 143)])
def test_a_status_is_what_a_shell_would_show(returncode: int, status: int) -> None:
    assert children.exit_status(returncode) == status
