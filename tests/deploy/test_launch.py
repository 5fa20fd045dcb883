"""A launched program ends as a whole: its status comes through, no descendant outlives it. Real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from penstock.deploy.launch import run_group

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
LAUNCHER = """
import subprocess, sys, time
pids = [subprocess.Popen([sys.executable, "-c", source]).pid for source in {sources!r}]
with open({path!r}, "w") as file:
    print(*pids, file=file)
time.sleep({seconds})
"""


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def read_pids(path: Path, deadline_s: float = 20.0) -> list[int]:
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if path.exists() and path.read_text().endswith("\n"):
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.02)
    raise TimeoutError(path)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("source", "code"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 128 + 9)],
)
def test_the_exit_status_comes_through(source: str, code: int) -> None:
    assert run_group(python(source)) == code


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        run_group(["/no/such/program"])


def test_what_the_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    sources = ["import time; time.sleep(60)", STUBBORN]
    assert run_group(python(LAUNCHER.format(sources=sources, path=str(path), seconds=0)), grace_s=0.5) == 0
    assert not any(is_running(pid) for pid in read_pids(path))


def test_if_this_side_is_killed_outright_the_programs_of_penstock_end_too(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    body = f"""
import os, time
from penstock.config import process
def main():
    print(os.getpid(), file=open({str(path)!r}, "w"), flush=True)
    time.sleep(60)
process.run(main)
"""
    launch = f"run_group([sys.executable, '-c', {body!r}])"
    source = f"import sys\nfrom penstock.deploy.launch import run_group\n{launch}"
    outer = subprocess.Popen(python(source))
    (pid,) = read_pids(path)
    outer.kill()
    outer.wait(timeout=10)
    end_s = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not is_running(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it_within_five_seconds(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "pids"
    launcher = LAUNCHER.format(sources=[STUBBORN], path=str(path), seconds=60)
    source = (
        "import sys\nfrom penstock.config import process\nfrom penstock.deploy.launch import run_group\n"
        f"process.run(lambda: run_group([sys.executable, '-c', {launcher!r}]))"
    )
    outer = subprocess.Popen(python(source), stderr=subprocess.PIPE, text=True)
    pids = read_pids(path)
    assert all(is_running(pid) for pid in pids)
    started_s = time.monotonic()
    os.kill(outer.pid, number)
    _, err = outer.communicate(timeout=30)
    assert time.monotonic() - started_s < 5
    assert outer.returncode == 128 + number
    assert "Traceback" not in err
    assert not any(is_running(pid) for pid in pids)
