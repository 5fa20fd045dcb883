"""What every benchmark needs: its options, its processes, its environment and its file of figures. Not a benchmark.

Whatever a benchmark starts through `Processes` ends with it, and so does whatever that has started.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.telemetry.machine import usable_cores

if TYPE_CHECKING:
    import psutil

# psutil and zmq are imported where they are used: a machine with a GPU may hold little more than torch.

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
BIN = Path(sys.executable).parent
MARK = "PENSTOCK_BENCHMARK"
"""The environment variable by which all processes of a benchmark are found."""
END_S = 15.0
"""The longest that a killed process may live on."""


class BenchmarkError(Exception):
    """The benchmark could not do what it is for."""


class Processes:
    """What the benchmark has started; `kill` ends all of it, and what that has started.

    Args:
        folder: gets a log for each process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = uuid.uuid4().hex
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, command: Sequence[str], cwd: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `command`; its output goes to a log that bears its name."""
        # One thread each: sums of another number of threads have other last bits, and the cores are shared.
        ours = {MARK: f"{self._mark} {name}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=os.environ | ours | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def finish(self, name: str, command: Sequence[str], timeout_s: float, cwd: Path = ROOT) -> None:
        """Run `command` to its end. Raises BenchmarkError where it takes too long or fails; leaves nothing behind."""
        self.wait(name, self.start(name, command, cwd), timeout_s)

    def wait(self, name: str, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        """Wait for the good end of what `start` has started, as `finish` does."""
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{name} hangs: it was not done within {timeout_s:.0f} s") from error
        finally:
            self.kill(name)
        if status != 0:
            last = (self.log(name).strip() or "it said nothing").splitlines()[-1]
            raise BenchmarkError(f"{name} ended with status {status}: {last}")

    def log(self, name: str) -> str:
        """What the process `name` has written so far."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def lives(self, name: str) -> bool:
        """Whether the process `name`, or one that it has started, is there."""
        return bool(self._living(name))

    def kill(self, name: str = "") -> None:
        """SIGKILL the process `name` with all that it has started, or everything; returns when they are gone."""
        import psutil

        deadline = time.monotonic() + END_S
        while living := self._living(name):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"cannot end {living}")
            for process in living:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(living, timeout=1)
            for child in self._started:
                child.poll()

    def _living(self, name: str) -> "list[psutil.Process]":
        """The processes that bear our mark and this name."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark, _, whose = process.environ().get(MARK, "").partition(" ")
                is_ours = mark == self._mark and name in ("", whose)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


class CpuUsage:
    """Counts from its making what the machine does beside this process and those of its children that have ended."""

    def __init__(self) -> None:
        self._before = self._now()

    def others(self) -> float:
        """Share of the machine's CPU time that others took, other guests of its host among them; 0 to 1."""
        total, busy, ours = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return max(0.0, busy - ours) / total

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of all cores, those that were not idle, and those of this process and its ended children."""
        import psutil

        times, ours = psutil.cpu_times(), os.times()
        # Guests' time stands in `user` and `nice` already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        return total, total - idle, sum(ours[:4])


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    import psutil

    taken = {connection.laddr.port for connection in psutil.net_connections("tcp") if connection.laddr}
    start = 20_000 + os.getpid() % 10_000
    return next(port for port in range(start, 60_000) if taken.isdisjoint(range(port, port + number)))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`, whose help is the module's docstring."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    return made


def write_json(path: Path | None, figures: Mapping[str, object], packages: Sequence[str] = ()) -> None:
    """Write the figures, and the machine and the versions of `packages` that they hold for; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**figures, "environment": environment(packages)}, indent=2) + "\n", encoding="utf-8")


def environment(packages: Sequence[str] = ()) -> dict[str, object]:
    """CPU, cores, date and versions; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    if "pyzmq" in versions:
        import zmq

        versions["libzmq"] = zmq.zmq_version()
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def run(main: Callable[[], int]) -> None:
    """End the process with `main`'s status, or with one line where the benchmark cannot be done."""
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
