"""Programs of Penstock that another one starts, and that never outlive it, however it ends.

A child's standard input is a pipe that its parent holds and never writes to: when the parent goes, by whatever signal,
the kernel closes it, and the child ends itself (`end_with_stdin`). It has a session of its own, so that Ctrl-C reaches
the parent alone, which ends its children in order.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO

from penstock.config.process import UNTIL_STDIN_CLOSES


def start(
    command: Sequence[str], *, output: IO[bytes] | int | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a child that ends with this process.

    Args:
        command: the program and its arguments.
        output: gets its standard output and errors, as `subprocess` takes it; this process's own by default.
        env: what its environment has beside this process's.

    Raises:
        OSError: the program cannot be started.
    """
    return subprocess.Popen(
        list(command),
        env=os.environ | (env or {}) | {UNTIL_STDIN_CLOSES: "1"},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def end(children: Sequence[subprocess.Popen[bytes]], within_s: float) -> None:
    """End all of them: ask by closing their input, and kill what is left after `within_s` seconds."""
    for child in children:
        if child.stdin is not None:
            child.stdin.close()
    deadline = time.monotonic() + within_s
    for child in children:
        try:
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and all that it has started in its session. Only for one that has just ended, or lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or on macOS only zombies are left
        os.killpg(child.pid, signal.SIGKILL)


def exit_status(returncode: int) -> int:
    """The exit status as a shell shows it: 128 + n where signal n ended the process."""
    return 128 - returncode if returncode < 0 else returncode
