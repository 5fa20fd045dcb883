"""Run one program with all its children as a group that ends as a whole, within a bounded time."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence

import psutil

from penstock.config import children

GRACE_S = 4.0
"""From the request to end until what is left is killed: below the five seconds that are promised."""
POLL_S = 0.05


def run_group(command: Sequence[str], grace_s: float = GRACE_S) -> int:
    """Run `command` to its end and return its exit status, 128 + n where signal n ended it.

    The command gets a session of its own: Ctrl-C reaches only this process, which passes it on as one SIGTERM
    to every member, so that none of them, nor a launcher between, dies by a traceback. However this call
    ends, by the command's end, Ctrl-C or SIGTERM, no member of the group is alive afterwards.

    Raises:
        OSError: the command cannot be started.
    """
    child = children.start(command)
    try:
        code = child.wait()
    finally:
        end_group(child, grace_s)
    return children.exit_status(code)


def end_group(leader: subprocess.Popen[bytes], grace_s: float) -> None:
    """End all processes of `leader`'s group: SIGTERM, then SIGKILL for what lives `grace_s` seconds later."""
    try:
        _signal_group(leader.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + grace_s
        while _alive(leader) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
    finally:  # also when a second Ctrl-C finds this waiting
        _signal_group(leader.pid, signal.SIGKILL)
        if leader.stdin is not None:
            leader.stdin.close()
        leader.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # gone, or on macOS only zombies are left
        return


def _alive(leader: subprocess.Popen[bytes]) -> bool:
    """Whether the group has a member that runs; one that nobody has reaped yet does not count."""
    leader.poll()
    for pid in psutil.pids():
        try:
            if os.getpgid(pid) == leader.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return False
