"""Pods and containers without Kubernetes and Docker: their commands as processes of a host of their own.

The host is a network namespace with names of its own, so that the ports of the manifests are free and the names of pods
and services lead to addresses on its loopback. What the kubelet and the controllers would do, a test does.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.deploy.manifests import ROOT

TOOLS = ("unshare", "nsenter", "ip", "mount")
"""That the host is made with; as root."""


class Host:
    """The namespaces. A context manager, which ends every process in them.

    Args:
        folder: gets logs, the programs' shims and the names.
        names: addresses on the loopback by name.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        hosts.write_text("".join(f"{line}\n" for line in lines))
        self._bin = folder / "bin"
        self._bin.mkdir()
        # The command of this tree, whatever is installed.
        shim = f"#!/bin/sh\nexec {sys.executable} -c 'from penstock.deploy.cli import main; main()' \"$@\"\n"
        (self._bin / "penstock").write_text(shim)
        # The image's first process only passes signals on.
        (self._bin / "tini").write_text('#!/bin/sh\nshift\nexec "$@"\n')
        for path in self._bin.iterdir():
            path.chmod(0o755)
        script = 'ip link set lo up && mount --bind "$0" /etc/hosts && echo up && exec sleep infinity'
        command = ["unshare", "--net", "--mount", "sh", "-c", script, str(hosts)]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            kill(self._holder)  # nobody leaves a context that was not entered
            raise AssertionError("the namespaces could not be made")

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A process there, in a session of its own; `name` names its log."""
        told = os.environ | {"PATH": f"{self._bin}:{os.environ['PATH']}", "NO_COLOR": "1"} | env
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [*self._inside, "env", "-C", str(ROOT), *command],
                env=told,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> Path:
        """Of a process."""
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        """Everything that a process has said so far."""
        return self.log(name).read_text(errors="replace") if self.log(name).exists() else ""

    def get(self, url: str, token: str = "") -> int:
        """The status of an answer; 0 where nobody answers."""
        code = (
            "import sys, urllib.error as e, urllib.request as r\n"
            "q = r.Request(sys.argv[1], headers={'Authorization': sys.argv[2]} if sys.argv[2] else {})\n"
            "try: print(r.urlopen(q, timeout=5).status)\n"
            "except e.HTTPError as error: print(error.code)\n"
            "except OSError: print(0)\n"
        )
        command = [*self._inside, sys.executable, "-S", "-c", code, url, f"Bearer {token}" if token else ""]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._holder.pid), "--net", "--mount"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in (*self._started, self._holder):
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def wait_for(condition: Callable[[], bool], what: str, within_s: float) -> None:
    """Look ten times a second until `condition()` is true; AssertionError where it does not become so."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{within_s:.0f} s were not enough for this: {what}"
        time.sleep(0.1)
